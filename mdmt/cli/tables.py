"""What a run directory tells, as tables; a run that is under way or failed, as far as it went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmt.errors import BadInput

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mdmt.config import FederationConfig
    from mdmt.tasks.base import Task

__all__ = ["Run", "read_run", "result_tables", "site_table"]

_SECONDARY = {
    "classification": {"balanced_accuracy": "higher", "brier": "lower"},
    "regression": {"pearson": "higher", "sum_mae": "lower"},
    "ordinal": {"pearson": "higher", "sum_mae": "lower"},
    "multilabel": {},
}
"""What is shown of a task beside its primary metric, and which way is better."""


@dataclass(frozen=True)
class Run:
    """The files of a run directory.

    Attributes
    ----------
    folder : Path
    config : FederationConfig
    sites, metrics : dict or None
        ``sites.json`` and ``metrics.json``; None where the run did not come that far.
    history, events : list of dict
        Lines of ``history.jsonl`` and ``events.jsonl``.
    """

    folder: Path
    config: FederationConfig
    sites: dict[str, Any] | None
    metrics: dict[str, Any] | None
    history: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def outcome(self) -> str:
        """``done``, or what became of the run instead."""
        last = self.events[-1] if self.events else {}
        if last.get("event") == "failed":
            return f"failed: {last['message'].rstrip(': ')}"
        if last.get("event") == "done":
            return "done"
        reached = self.history[-1]["round"] if self.history else 0
        return f"unfinished: booked up to round {reached} of {self.config.training.rounds}"


def read_run(folder: Path) -> Run:
    """Read a run directory.

    Raises
    ------
    BadInput
        There is no run, or one of its files is damaged.
    """
    from mdmt.config import load_federation
    from mdmt.files import read_json

    if not (folder / "federation.yaml").is_file():
        raise BadInput(f"{folder}: not a run directory; it has no federation.yaml")
    read = {}
    for name in ("sites.json", "metrics.json"):
        file = folder / name
        try:
            read[name] = read_json(file) if file.exists() else None
        except ValueError as error:
            raise BadInput(f"{file}: damaged: {error}") from error
    return Run(
        folder=folder,
        config=load_federation(folder / "federation.yaml"),
        sites=read["sites.json"],
        metrics=read["metrics.json"],
        history=_lines(folder / "history.jsonl"),
        events=_lines(folder / "events.jsonl"),
    )


def _lines(file: Path) -> list[dict[str, Any]]:
    """Complete lines of a JSON-lines file, which someone may be writing."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise BadInput(f"{file}: damaged: {error}") from error


def site_table(run: Run) -> Table | None:
    """Sites with their tasks, images and labels; None before the roll call."""
    from mdmt.cli.console import new_table

    if run.sites is None:
        return None
    table = new_table(
        f"{run.config.name}: sites (images and labels: train/val/test; -: not told)",
        *("site", "task", "images", "labels", "training labels"),
    )
    splits = ("train", "val", "test")
    for name, card in run.sites["sites"].items():
        images = "/".join(_count(card["images"].get(split, 0)) for split in splits)
        for task in card["tasks"]:
            labels = "/".join(_count(card["counts"][task].get(split, 0)) for split in splits)
            counts = _histogram(card["histogram"].get(task, {}))
            table.add_row(name, task, images, labels, counts)
    return table


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def _histogram(columns: dict[str, dict[str, int] | None]) -> str:
    """Count each label over all columns of the task, if all are told."""
    total: dict[str, int] = {}
    for counts in columns.values():
        if counts is None:
            return "-"
        for label, count in counts.items():
            total[label] = total.get(label, 0) + count
    return ", ".join(f"{label}: {count}" for label, count in total.items())


def result_tables(run: Run) -> Iterator[RenderableType]:
    """Yield what a run gave (or its last validation, if it has no result yet), and what it cost."""
    if run.metrics is not None:
        for task in run.config.tasks:
            yield from _test_tables(run, task)
        yield "Brackets: rounds, and 95 % intervals by patient bootstrap."
    elif run.history:
        yield _validation_table(run)
    yield _cost(run)
    if run.outcome != "done":
        yield f"{run.folder.name}: {run.outcome}"


def _test_tables(run: Run, task: str) -> Iterator[Table]:
    """Yield a table for each site that tests a task: constant, local only, federated."""
    assert run.metrics is not None
    checkpoints, references = run.metrics["checkpoints"], run.metrics.get("references", {})
    last, best = checkpoints["last"], checkpoints.get(f"best:{task}")
    arms = {"constant": references.get("constant"), "local only": references.get("local")}
    arms |= {f"federated, last ({last['round']})": last}
    arms |= {f"federated, best ({best['round']})": best} if best else {}
    for site in sorted(last["sites"]):
        tests = {name: arm["sites"].get(site, {}).get("test") for name, arm in arms.items() if arm}
        if f"{task}/examples" in last["sites"][site]["test"]:
            yield _test_table(run.config.space(task), task, site, tests)


def _test_table(
    space: Task, task: str, site: str, tests: dict[str, dict[str, Any] | None]
) -> Table:
    from mdmt.cli.console import new_table

    final = next(test for name, test in tests.items() if test and name.startswith("federated"))
    metrics = {space.primary: space.primary_is_better_when} | _SECONDARY[space.kind]
    metrics = {name: better for name, better in metrics.items() if f"{task}/{name}" in final}
    table = new_table(
        f"{task} at {site}: {_count(final[f'{task}/examples'])} test images",
        *("model", *(f">{name}\n{better}\nis better" for name, better in metrics.items())),
    )
    for name, test in tests.items():
        table.add_row(name, *(_value(test or {}, f"{task}/{metric}") for metric in metrics))
    # The local-only model is that of its own last round: like is compared with like.
    if local := tests.get("local only"):
        pairs = ((final.get(f"{task}/{name}"), local.get(f"{task}/{name}")) for name in metrics)
        gains = map(_gain, pairs, metrics.values())
        table.add_row("last vs. local only", *gains, style="bold")
    return table


def _validation_table(run: Run) -> Table:
    from mdmt.cli.console import new_table

    last = run.history[-1]
    table = new_table(
        f"{run.config.name}: validation after round {last['round']}",
        "site",
        "task",
        "metric",
        ">value",
    )
    for site, facts in last["sites"].items():
        for task in run.config.tasks:
            key = f"{task}/{run.config.space(task).primary}"
            if key in facts.get("validation", {}):
                table.add_row(site, task, key.partition("/")[2], _value(facts["validation"], key))
    return table


def _value(metrics: dict[str, Any], key: str) -> str:
    value, low, high = (metrics.get(key + end) for end in ("", "_low", "_high"))
    if value is None:
        untold = metrics.get(f"{key.partition('/')[0]}/examples", 0) is None
        return "-" if untold or key not in metrics else "undefined"
    return f"{value:.3f}" + ("" if low is None or high is None else f" [{low:.3f}, {high:.3f}]")


def _gain(values: tuple[float | None, float | None], better: str) -> str:
    federated, local = values
    if federated is None or local is None:
        return "-"
    difference = federated - local
    if round(difference, 3) == 0:
        return "equal"
    return f"{difference:+.3f} {'better' if (difference > 0) == (better == 'higher') else 'worse'}"


def _cost(run: Run) -> str:
    """Say in a line how many rounds, seconds, bytes and refusals there were."""
    sites = [facts for line in run.history for facts in line["sites"].values()]
    down, up = (sum(facts.get(key, 0) for facts in sites) for key in ("bytes_down", "bytes_up"))
    rounds = run.history[-1]["round"] if run.history else 0
    seconds = sum(line["seconds"] for line in run.history)
    refusals = [
        f"{site} in round {line['round']} ({reason})"
        for line in run.history
        for site, reason in line["refusals"].items()
    ]
    return (
        f"{rounds} rounds in {seconds:.0f} s; {down / 1e6:.1f} MB to the sites,"
        f" {up / 1e6:.1f} MB back; refused: {'; '.join(refusals) or 'none'}"
    )
