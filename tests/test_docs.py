"""The commands, links, files and keys in README and docs exist, and the commands work."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
import typer.main
from cli_builders import patients, run_cli, write_rows

from mdmt.cli import app
from mdmt.config import find_config, load_federation
from mdmt.files import read_json
from simulation.study.config import load_study

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {page.name: page for page in PAGES}
PROMPT = re.compile(r"^ *(?:[a-z]*[$] )?(?:[A-Z_]+=\S+ )?(?:/opt/mdmt/venv/bin/)?(?=mdmt )")
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```|((?:^    .*\n)+)", re.DOTALL | re.MULTILINE)


def commands(text: str) -> Iterator[list[str]]:
    """Every `mdmt` command in a code block or between backticks, as a list of arguments."""
    blocks = "\n".join(fenced or indented for fenced, indented in BLOCK.findall(text))
    lines = [line for line in blocks.splitlines() if PROMPT.match(line)]
    spans = re.findall(r"`(mdmt [a-z-][^`]*)`", BLOCK.sub("", text))
    for line in lines + spans:
        bare = re.split(r"\s+[#(]|\s*&&", PROMPT.sub("", " ".join(line.split(" ")).strip()))[0]
        yield from alternatives(shlex.split(bare.replace("\n", " ").replace("\\|", "|"))[1:])


def alternatives(arguments: list[str]) -> Iterator[list[str]]:
    """`server start|stop` is `server start` and `server stop`."""
    for place, argument in enumerate(arguments):
        if "|" in argument:
            for one in argument.split("|"):
                yield from alternatives([*arguments[:place], one, *arguments[place + 1 :]])
            return
    yield arguments


ALL = sorted({(page.name, *command) for page in PAGES for command in commands(page.read_text())})


def test_the_pages_are_searched_for_commands() -> None:
    found = {command[1:] for command in ALL}
    assert ("server", "revoke") in found
    assert ("simulate", "CONFIG") in found
    assert ("study", "synthetic", "--workers", "1") in found
    assert len(found) > 40


@pytest.mark.parametrize("found", ALL, ids=" ".join)
def test_every_command_and_option_exists(found: tuple[str, ...]) -> None:
    command: click.Command = typer.main.get_command(app)
    arguments = list(found[1:])
    while isinstance(command, click.Group) and arguments:
        name = arguments.pop(0)
        if name.startswith("--"):
            break
        assert name in command.commands, f"{found[0]}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts}
    for argument in arguments:
        if argument.startswith("-"):
            assert argument.split("=")[0] in {*known, "--help"}, f"{found[0]}: {argument}"
    takes_some = any(isinstance(parameter, click.Argument) for parameter in command.params)
    assert takes_some or not arguments or arguments[0].startswith("-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_between_backticks_exists(page: Path) -> None:
    from benchmarks.__main__ import main

    groups, known = [typer.main.get_command(app)], {"--help", "--version"}
    benchmarks = typer.Typer()
    benchmarks.command()(main)
    groups.append(typer.main.get_command(benchmarks))
    while groups:
        command = groups.pop()
        known |= {option for parameter in command.params for option in parameter.opts}
        groups += command.commands.values() if isinstance(command, click.Group) else []
    for option in re.findall(r"`(--[a-z-]+)", page.read_text()):
        assert option in {*known, "--insecure"}, f"{page.name}: {option}"


@pytest.mark.parametrize(
    "found", [c for c in ALL if c[1] in {"simulate", "study"} and len(c) > 2], ids=" ".join
)
def test_every_named_configuration_and_changed_key_exists(
    found: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MDMT_DATA", "/data")
    monkeypatch.chdir(ROOT)
    _, command, name, *rest = found
    changes = [value for option, value in pairwise(rest) if option == "--set"]
    if name.isupper() or name == "federation.yaml":  # a placeholder, or the reader's own file
        name = "demo" if command == "simulate" else "synthetic"
    if command == "simulate":
        load_federation(find_config(name), changes)
    else:
        load_study(find_config(name, "study"), changes)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith(("http", "mailto")):
            continue
        file, _, heading = target.partition("#")
        linked = (page.parent / file) if file else page
        assert linked.is_file(), f"{page.name}: {target}"
        if heading:
            lines = [line for line in linked.read_text().splitlines() if line.startswith("#")]
            anchors = {
                re.sub(r"[^a-z0-9 -]", "", line.strip("# ").lower()).replace(" ", "-")
                for line in lines
            }
            assert heading in anchors, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_this_repository_exist(page: Path) -> None:
    rooms = "mdmt|client|server|simulation|tests|configs|benchmarks|docs"
    pattern = rf"`((?:{rooms})/[A-Za-z0-9_/.-]*)(?:::\w+)?`"
    for path in re.findall(pattern, page.read_text()):
        if path not in {"benchmarks/results/DATE.json", "server/server.key"}:
            assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_the_diagram_and_its_page_name_the_same_files_once_and_in_the_same_order() -> None:
    page, diagram = ((ROOT / "docs" / f"architecture.{end}").read_text() for end in ("md", "svg"))
    rows = re.findall(r"^\| (\d+) \| `([^`]+)`", page, re.MULTILINE)
    radiograph, backbone = rows[:13], rows[13:]
    assert re.findall(r">([\w/]+\.py)<", diagram) == [file for _, file in radiograph]
    drawn = re.findall(r">(\d+)&#160; ([\w/]+\.py)<", diagram)
    assert sorted(drawn, key=lambda step: int(step[0])) == backbone
    assert len({file for _, file in backbone}) == len(backbone)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_targets_of_make_and_names_of_benchmarks_exist(page: Path) -> None:
    from benchmarks.rows import ROWS

    makefile = (ROOT / "Makefile").read_text()
    text = page.read_text()
    for target in re.findall(r"(?:^|`)make ([a-z0-9]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
    named = re.findall(r"python -m benchmarks ([a-z-]+)(?=[ `])", text)
    for name in [n for n in named if not n.startswith("--")] + re.findall(r'ONLY="([^"]*)"', text):
        assert set(name.split()) <= set(ROWS), f"{page.name}: benchmarks {name}"


def test_the_commands_of_the_readme_work_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """init, validate, simulate, show, report and predict, as the table of commands gives them."""
    write_rows(tmp_path / "data", patients(14))
    monkeypatch.chdir(tmp_path / "data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = ["model.backbone=test_resnet", "model.image_size=32", "training.rounds=1"]
    small += ["sites.data.cache_dir=cache", "sites.data.state_dir=state"]
    sets = [part for change in small for part in ("--set", change)]
    given = {command[1]: list(command[1:]) for command in ALL if command[0] == "README.md"}
    places = {
        "FILE": "federation.yaml",
        "CONFIG": "federation.yaml",
        "RUN": "runs/data",
        "STUDY": "runs/data",
    }
    places |= {"RELEASE": "runs/data/release", "IMAGES...": "images/0.png"}
    for name in ("init", "validate", "simulate", "show", "report", "predict"):
        arguments = [places.get(argument, argument) for argument in given[name]]
        if name == "simulate":
            arguments = [name, "federation.yaml", *sets]
        result = run_cli(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert len(Path("predictions.csv").read_text().splitlines()) > 1
    check_files_of_the_run(Path("runs/data"))


def check_files_of_the_run(folder: Path) -> None:
    """docs/run-directory.md lists every file of a run and describes every key."""
    page = (ROOT / "docs" / "run-directory.md").read_text()
    listed = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    for path in folder.iterdir():
        assert path.name + "/" * path.is_dir() in listed
    for path in (folder / "release").iterdir():
        assert re.sub(r"\d{5}", "00003", path.name) in listed or path.is_dir()
    for line in (folder / "events.jsonl").read_text().splitlines():
        assert f"`{json.loads(line)['event']}`" in page
    line = json.loads((folder / "history.jsonl").read_text().splitlines()[-1])
    sites, metrics = read_json(folder / "sites.json"), read_json(folder / "metrics.json")
    card = sites.pop("sites")["data"]
    named = {*line, *line["sites"]["data"], *metrics, *metrics["references"], *sites, *card}
    for key in named - {"name"}:
        assert re.search(rf"[`\"]{key}[`\"]", page), key
