"""Bad input is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PROGNOSIS
from cli_builders import errors, patients, run_cli, table_site, write_rows
from safetensors.numpy import save_file

from mdmt.config import load_federation, save_config

WriteFederation = Callable[..., Path]


def refused(*arguments: object) -> str:
    """Run a command that must exit with 2; give its one error line."""
    result = run_cli(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = errors(result)
    return line


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"modle": {}}, "modle: no such key"),
        ({"training": {"rounds": 0}}, "training.rounds: "),
        ({"training": {"rounds": 1, "optimizer": "adan"}}, "training.optimizer"),
        ({"model": {"backbone": "test_resnt", "image_size": 32}}, "test_resnt"),
        ({"sites": {}}, "needs sites"),
        ({"sites": {"a": {"dataset": {"kind": "table", "root": "${NOT_SET}"}}}}, "NOT_SET"),
    ],
)
def test_wrong_configuration(
    write_federation: WriteFederation, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    root = tmp_path / "a"
    write_rows(root, patients())
    federation = {"sites": {"a": table_site(root, "prognosis", "severity")}} | changes
    file = write_federation(**federation)
    assert says in refused("simulate", file, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_going_back_needs_a_run_that_is_resumed(
    write_federation: WriteFederation, tmp_path: Path
) -> None:
    write_rows(tmp_path / "a", patients())
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    out = tmp_path / "out"
    line = refused("simulate", file, "--out", out, "--from-round", "2")
    assert line == "error: --from-round: needs --resume"
    save_config(load_federation(file), out / "federation.yaml")
    line = refused("simulate", file, "--out", out, "--resume", "--from-round", "2")
    assert line.endswith("does not keep this round; kept are the rounds none")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prognosis": "DEAD"}, "'DEAD' is no label of prognosis"),
        ({"A": "4"}, "'4' is no label of severity"),
        ({"patient": "p9"}, "patient p9"),
        ({"split": "dev"}, "'dev' is not a split"),
        ({"image": "images/none.png"}, "none.png is not a file"),
    ],
)
def test_wrong_row_is_named(
    write_federation: WriteFederation, tmp_path: Path, change: dict[str, str], says: str
) -> None:
    rows = patients()
    table = write_rows(tmp_path / "a", rows)
    rows[2] |= change
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    table.write_text("\n".join(lines))
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    line = refused("simulate", file, "--out", tmp_path / "out")
    # Line 1 is the header; two splits of one patient show where the second one stands.
    assert says in line
    assert f"labels.csv:{11 if 'patient' in change else 4}" in line
    assert not (tmp_path / "out").exists()


def test_missing_column_is_named(write_federation: WriteFederation, tmp_path: Path) -> None:
    write_rows(tmp_path / "a", [{k: v for k, v in row.items() if k != "C"} for row in patients()])
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    assert "no column C" in refused("simulate", file, "--out", tmp_path / "out")


@pytest.mark.parametrize("content", ["", "no image", "truncated"])
def test_unusable_image_is_named_or_counted(
    write_federation: WriteFederation, tmp_path: Path, content: str
) -> None:
    write_rows(tmp_path / "a", patients())
    image = tmp_path / "a" / "images" / "3.png"
    image.write_bytes(image.read_bytes()[:300] if content == "truncated" else content.encode())
    site = table_site(tmp_path / "a", "prognosis", "severity")
    file = write_federation(sites={"a": site})
    assert "3.png" in refused("simulate", file, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    site["dataset"]["on_bad_image"] = "skip"
    result = run_cli("simulate", write_federation(sites={"a": site}), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "5/2/2" in run_cli("show", tmp_path / "out").stdout  # one of six is left out


def test_sites_that_cannot_federate_leave_no_run(
    write_federation: WriteFederation, tmp_path: Path
) -> None:
    rows = patients()
    write_rows(tmp_path / "a", rows)
    write_rows(tmp_path / "b", rows)
    a, b = (table_site(tmp_path / name, "prognosis", "severity") for name in "ab")
    swapped = PROGNOSIS | {"classes": ["SEVERE", "MILD"]}
    unlabelled = table_site(tmp_path / "a", "prognosis")
    for sites, says in (
        (
            {"a": a, "b": b | {"tasks": {"prognosis": swapped}}},
            "b: disagrees on the task prognosis",
        ),
        ({"a": a, "b": b | {"name": "a"}}, "a"),
        ({"a": unlabelled}, "task severity"),
    ):
        line = refused("simulate", write_federation(sites=sites), "--out", tmp_path / "out")
        assert says in line
        assert not (tmp_path / "out").exists()


def test_two_sites_under_one_key(write_federation: WriteFederation, tmp_path: Path) -> None:
    file = write_federation()
    site = f"{{dataset: {{kind: table, root: {tmp_path}}}, tasks: {{prognosis: {{}}}}}}"
    file.write_text(file.read_text() + f"sites:\n  a: {site}\n  a: {site}\n")
    assert "the key a is given twice" in refused("simulate", file, "--out", tmp_path / "out")


@pytest.fixture
def unfit(write_federation: WriteFederation, tmp_path: Path) -> Path:
    """A federation whose weights do not fit, which shows only after its run directory is made."""
    write_rows(tmp_path / "a", patients())
    weights = tmp_path / "other.safetensors"
    save_file({"conv1.0.weight": np.zeros((1, 1, 3, 3), np.float32)}, weights)
    return write_federation(
        sites={"a": table_site(tmp_path / "a", "prognosis", "severity")},
        model={"backbone": "test_resnet", "image_size": 32, "weights": str(weights)},
    )


def test_weights_that_do_not_fit(unfit: Path, tmp_path: Path) -> None:
    assert "other.safetensors" in refused("simulate", unfit, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_of_the_user_is_kept_and_left_empty(unfit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert "other.safetensors" in refused("simulate", unfit, "--out", out)
    assert out.is_dir()
    assert not list(out.iterdir())


def test_a_run_that_cannot_be_resumed_is_kept(unfit: Path, tmp_path: Path) -> None:
    """It was stopped before its first line of history."""
    out = tmp_path / "out"
    save_config(load_federation(unfit), out / "federation.yaml")
    (out / "sites").mkdir()
    assert "other.safetensors" in refused("simulate", unfit, "--resume", "--out", out)
    assert (out / "federation.yaml").is_file()
    assert (out / "sites").is_dir()


def test_nothing_is_written_over(write_federation: WriteFederation, tmp_path: Path) -> None:
    write_rows(tmp_path / "a", patients())
    file = write_federation(sites={"a": table_site(tmp_path / "a", "prognosis", "severity")})
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    assert "is not empty" in refused("simulate", file, "--out", out)
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("rounds", "expected KEY.KEY=VALUE"),
        ("training.round=3", "training.round: no such key"),
        ("training.rounds=many", "'many'"),
    ],
)
def test_wrong_override(
    write_federation: WriteFederation, tmp_path: Path, override: str, says: str
) -> None:
    line = refused("simulate", write_federation(), "--set", override, "--out", tmp_path / "out")
    assert says in line


def test_unknown_file_lists_what_ships() -> None:
    assert "demo" in refused("simulate", "nothing.yaml")


def test_usage_errors_exit_with_2() -> None:
    assert run_cli("simulate").exit_code == 2
    assert run_cli("simulate", "demo", "--engine", "spark").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied"),
    ],
)
def test_interrupts_and_system_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr("mdmt.config.find_config", fail)
    result = run_cli("simulate", "demo")
    assert (result.exit_code, errors(result)) == (code, [says])


def modules_after(code: str) -> set[str]:
    """Modules that a fresh interpreter has loaded after `code`."""
    tail = "import sys\nprint('modules', *{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_and_validation_load_nothing_heavy(write_federation: WriteFederation) -> None:
    heavy = {"torch", "torchvision", "timm", "flwr", "ray", "sklearn", "scipy", "pydicom"}
    run = "from typer.testing import CliRunner\nfrom mdmt.cli import app\n"
    run += "assert CliRunner().invoke(app, {!r}).exit_code == 0"
    assert not modules_after(run.format(["--help"])) & (heavy | {"numpy", "pydantic"})
    assert not modules_after(run.format(["validate", str(write_federation())])) & heavy


def test_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mdmt", "show", str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": ""},
        check=False,
    )
    assert done.returncode == 2
    line = f"error: {tmp_path}: not a run directory; it has no federation.yaml\n"
    assert (done.stdout, done.stderr) == ("", line)
