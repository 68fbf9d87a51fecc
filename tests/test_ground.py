"""What the package promises before any of its code runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = ("torch", "timm", "flwr", "sklearn", "pydicom", "matplotlib")


def names(requirements):
    return [re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements]


def declared():
    extras = PYPROJECT["project"]["optional-dependencies"].values()
    return names(PYPROJECT["project"]["dependencies"]) + [
        n for extra in extras for n in names(extra)
    ]


def test_flwr_run_has_nothing_to_resolve():
    """`flwr run` resolves what is declared; each must be excluded, or torch is downloaded."""
    excluded = PYPROJECT["tool"]["uv"]["exclude-dependencies"]
    assert sorted(name.lower() for name in excluded) == sorted(declared())


def test_every_declared_dependency_has_a_tested_version():
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in constraints if "==" in line}
    assert set(declared()) <= pinned
    assert "torch==2.14.1" in constraints
    assert "torchvision==0.29.1" in constraints


def test_every_pattern_of_the_flower_app_matches_and_none_packs_tests_or_data():
    patterns = PYPROJECT["tool"]["flwr"]["app"]["fab-include"]
    for pattern in patterns:
        packed = list(ROOT.glob(pattern))
        assert packed, f"{pattern} matches nothing, which Flower refuses"
        assert not [path for path in packed if path.relative_to(ROOT).parts[0] in ("tests", "runs")]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_loads_and_opens_with_the_command_that_runs_it(config, monkeypatch):
    from mdmt.config import load_federation

    monkeypatch.setenv("MDMT_DATA", "/data")
    federation = load_federation(config)
    assert federation.name == config.stem
    assert f"mdmt simulate {config.stem}" in "".join(config.open().readlines()[:2])


@pytest.mark.parametrize(
    "config", sorted((ROOT / "configs" / "study").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_study_loads_and_opens_with_the_command_that_runs_it(config, monkeypatch):
    from mdmt.config import find_config
    from simulation.study.config import load_study

    monkeypatch.setenv("MDMT_DATA", "/data")
    study = load_study(find_config(config.stem, "study"))
    assert study.name == config.stem
    assert f"mdmt study {config.stem}" in config.open().readline()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["simulate", "--help"], ["study", "--help"], ["--version"]]
)
def test_asking_for_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\n"
        f"sys.argv = ['mdmt', *{arguments!r}]\n"
        "from mdmt.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_reading_a_configuration_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from mdmt.config import find_config, load_federation\n"
        "load_federation(find_config('demo'))\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_site_in_the_readme_is_a_valid_site(tmp_path):
    from mdmt.config import load_site

    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "site.yaml"
    file.write_text(example)
    site = load_site(file)
    assert site.name == "my-hospital"
    assert site.tasks["prognosis"].values == {"0": "MILD", "1": "SEVERE"}


def test_every_key_of_a_study_is_documented():
    from mdmt.strict import Strict
    from simulation.study import config, kinds

    text = (ROOT / "docs" / "paper.md").read_text()
    models = [*vars(config).values(), *vars(kinds).values()]
    for model in models:
        if isinstance(model, type) and issubclass(model, Strict) and "study" in model.__module__:
            for key in model.model_fields:
                assert f"`{key}`" in text, f"{model.__name__}.{key}"


def test_every_configuration_key_is_documented():
    from mdmt.algorithms import algorithms
    from mdmt.config import datasets, federation, model, site, training
    from mdmt.plugins import Plugin  # mdmt writes it, not a user
    from mdmt.strict import Strict

    text = (ROOT / "docs" / "configuration.md").read_text()
    for name in algorithms.names():
        assert f"`{name}`" in text
        for key in algorithms[name].model_fields:
            assert f"`{key}`" in text, f"algorithm {name}.{key}"
    for module in (datasets, federation, model, site, training):
        for section in vars(module).values():
            if isinstance(section, type) and issubclass(section, Strict) and section is not Plugin:
                for key in set(section.model_fields) - {"space", "kind"}:
                    assert f"`{key}`" in text, f"{section.__name__}.{key}"


FLOWER_IS_PRIVATE_IN = {"client/flower.py", "client/fleet.py", "server/flower.py"}
PUBLIC_FLOWER = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def imported_modules(file):
    """Every module that a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno


def test_private_modules_of_flower_are_imported_in_three_files():
    """The next Flower version is then a change in these files."""
    found = {}
    for room in ("mdmt", "client", "server", "simulation"):
        for file in sorted((ROOT / room).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            for module, line in imported_modules(file):
                if module.partition(".")[0] == "flwr" and module not in PUBLIC_FLOWER:
                    found.setdefault(name, []).append(f"{name}:{line}: {module}")
    assert not [place for file in found.keys() - FLOWER_IS_PRIVATE_IN for place in found[file]]
    assert found.keys() == FLOWER_IS_PRIVATE_IN


@pytest.mark.parametrize("file", sorted(FLOWER_IS_PRIVATE_IN))
def test_each_private_import_of_flower_has_its_reason(file):
    """A comment on one of the lines of the import statement, or of one of its names."""
    lines = (ROOT / file).read_text().splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr."):
            if node.module in PUBLIC_FLOWER or node.col_offset:
                continue
            statement = lines[node.lineno - 1 : node.end_lineno]
            assert any("  # " in line for line in statement), f"{file}:{node.lineno}"


def test_a_simulation_does_not_load_what_only_a_deployment_needs():
    """Flower's web server and its command line would cost every start a third of a second."""
    code = (
        "import sys, simulation.engine, client.app, server.messaging\n"
        "print([m for m in ('fastapi', 'flwr.supercore.heartbeat') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


KINDS = {"Classification", "Multilabel", "Ordinal", "Regression"}
WRITES_KINDS = {"mdmt/data/guess.py", "mdmt/data/guess_labels.py"}  # they guess one from a table


def test_what_a_task_kind_means_is_asked_of_the_task():
    """A new kind is one class in one file: nothing else names a kind or compares one."""
    rooms = [ROOT / room for room in ("mdmt", "client", "server", "simulation")]
    found = []
    for file in sorted(file for room in rooms for file in room.rglob("*.py")):
        name = str(file.relative_to(ROOT))
        if name.startswith("mdmt/tasks/") or name in WRITES_KINDS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.Name(id=word) | ast.alias(name=word) | ast.Constant(value=str(word)):
                    wrong = word in KINDS | {kind.lower() for kind in KINDS}
                case ast.Compare():
                    wrong = "space.kind" in ast.unparse(node)
                case _:
                    continue
            if wrong:
                found.append(f"{name}:{node.lineno}")
    assert not found
