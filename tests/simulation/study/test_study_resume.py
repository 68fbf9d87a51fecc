"""Studies that are interrupted, killed, gone on with, or disturbed otherwise."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from builders import study_dict
from cli_builders import patients, run_cli, table_site, write_rows
from safetensors.torch import save_file

import simulation.study.cells
import simulation.study.runner
import simulation.study.tables
from mdmt.errors import BadInput, RunError, StateError
from mdmt.models import build_model
from mdmt.report import write_report
from mdmt.results.studies import read_study
from simulation.study.config import load_study
from simulation.study.runner import run_study
from simulation.study.time_limit import TimeLimit

ROOT = Path(__file__).parents[3]
TABLES = ("results.csv", "predictions.csv", "statistics.json")


def tables_of(out):
    return {name: (out / name).read_bytes() for name in TABLES}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A study's file, and the tables that it gives when nothing happens to it."""
    return finished_study(tmp_path_factory.mktemp("undisturbed"), rounds=2, local_steps=1)


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """The same of a study that trains long enough to be killed meanwhile."""
    return finished_study(tmp_path_factory.mktemp("longer"), rounds=3, local_steps=4)


def finished_study(folder, **training):
    sites = {"clinic": table(folder, "clinic", "severity")}
    sites["hospital"] = table(folder, "hospital", "prognosis")
    file = folder / "study.yaml"
    recipe = {"training": {"batch_size": 8} | training}
    file.write_text(yaml.safe_dump(study_dict(sites, federation=recipe)))
    run_study(load_study(file), folder / "out", workers=0)
    return file, tables_of(folder / "out")


def table(folder, name, task):
    write_rows(folder / name, patients(16))
    return table_site(folder / name, task)


class PowerCut(BaseException):
    """Not an error that anything could handle."""


def cut(monkeypatch, module, name, when):
    """Let the call number `when` of a function be the last thing that happens."""
    calls, original = iter(range(1, 1000)), getattr(module, name)

    def dies(*arguments, **options):
        if next(calls) == when:
            raise PowerCut
        return original(*arguments, **options)

    monkeypatch.setattr(module, name, dies)


POINTS = {
    "before the study's own file": (simulation.study.runner, "save_config", 1),
    "before a cell's arm": (simulation.study.cells, "_bench", 2),
    "before a cell's files": (simulation.study.cells, "_write", 2),
    "between a cell's files": (simulation.study.cells, "write_json", 3),
    "before a cell is read back": (simulation.study.runner, "read_cell", 5),
    "before the tables": (simulation.study.runner, "write_tables", 1),
    "between the tables": (simulation.study.tables, "study_statistics", 1),
    "before the last table": (simulation.study.tables, "write_json", 2),
}


@pytest.mark.parametrize("point", POINTS)
def test_a_study_cut_off_anywhere_gives_the_same_tables(undisturbed, tmp_path, monkeypatch, point):
    file, expected = undisturbed
    study, out = load_study(file), tmp_path / "out"
    with monkeypatch.context() as patch:
        cut(patch, *POINTS[point])
        with pytest.raises(PowerCut):
            run_study(study, out, workers=0)
    ran = []
    run_study(study, out, workers=0, on_cell=lambda one: ran.append(one["arm"]))
    assert tables_of(out) == expected
    if point != "before the study's own file":
        assert len(ran) < 3, "the first cell was finished and is not made again"
    assert not list((out / "cells").glob(".work-*"))


@pytest.mark.e2e
def test_a_killed_study_leaves_no_process_and_goes_on_to_the_same_tables(longer, tmp_path):
    """A real SIGKILL of a study with two workers, while they train."""
    file, expected = longer
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "mdmt", "study", file, "--out", out, "--workers", "2"],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: list(out.glob("cells/*/*/*/*/cell.json")) or process.poll() is not None)
        assert process.poll() is None, "it must be killed before it is done"
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not alive(process.pid))
    finished = []
    run_study(load_study(file), out, workers=0, on_plan=lambda done, cells: finished.extend(done))
    assert 1 <= len(finished) < 3
    assert tables_of(out) == expected


def wait_until(true, seconds=90):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def alive(group):
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.e2e
def test_workers_give_the_bits_of_one_process_and_a_killed_one_costs_a_cell(longer, tmp_path):
    file, expected = longer
    study, out = load_study(file), tmp_path / "out"

    killed = []

    def kill_the_worker(finished):
        while not killed:
            for process in children():
                os.kill(process, signal.SIGKILL)
                killed.append(process)

    with pytest.raises(RunError, match="1 of 3 cells failed; the same command") as caught:
        run_study(study, out, workers=1, on_cell=kill_the_worker, on_fail=lambda *_: None)
    assert "the training process ended (signal SIGKILL)" in str(caught.value)
    run_study(study, out, workers=1)
    assert tables_of(out) == expected
    assert not children()


def children():
    """Ids of this process's workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if parent == str(os.getpid()) and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_a_grid_may_grow_and_finished_cells_are_not_made_again(load, tables, tmp_path):
    out = tmp_path / "out"
    run_study(load(sites=tables, arms=["local"]), out, workers=0)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("cell.json")}
    ran = []
    larger = load(sites=tables, arms=["local", "constant"], seeds=[0, 1])
    run_study(larger, out, workers=0, on_cell=lambda one: ran.append(one))
    assert sorted((cell["arm"], cell["seed"]) for cell in ran) == [
        ("constant", 0),
        ("constant", 1),
        ("local", 1),
    ]
    assert all(file.stat().st_mtime_ns == before for file, before in times.items())


def test_a_grown_study_that_is_cut_off_has_no_tables_of_the_smaller_one(
    load, tables, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    run_study(load(sites=tables, arms=["constant"]), out, workers=0)
    cut(monkeypatch, simulation.study.cells, "_bench", 1)
    with pytest.raises(PowerCut):
        run_study(load(sites=tables, arms=["constant", "local"]), out, workers=0)
    assert not [name for name in (*TABLES, "study.json") if (out / name).exists()]
    assert "The study is unfinished: 1 cell" in write_report(out).read_text()


def test_a_study_whose_grid_shrank_is_reported_without_what_left_it(load, tables, tmp_path):
    out = tmp_path / "out"
    run_study(load(sites=tables, arms=["constant", "local"], seeds=[0, 1]), out, workers=0)
    run_study(load(sites=tables, arms=["constant"]), out, workers=0)
    shutil.copytree(out / "cells" / "constant", out / "cells" / ".work-x" / "cell")
    study = read_study(out)
    assert [(arm, name.seed) for arm, name in study.cells] == [("constant", 0)]
    assert "What each arm cost" in write_report(out).read_text()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.e2e)])
def test_a_cell_that_fails_stops_no_other_and_its_logs_stay(load, tables, tmp_path, workers):
    out, failed = tmp_path / "out", []
    optimizer = {"name": "sgd", "lr": 1e30}
    recipe = {"training": {"rounds": 1, "local_steps": 2, "batch_size": 8, "optimizer": optimizer}}
    study = load(sites=tables, arms=["federated", "constant"], federation=recipe)
    for _ in range(2):
        with pytest.raises(RunError, match="1 of 2 cells failed; the same command") as caught:
            run_study(study, out, workers=workers, on_fail=lambda cell, error: failed.append(error))
        _, line = str(caught.value).splitlines()
        assert line.startswith("federated test_resnet own 0: round 1: 0 updates")
        folder = Path(line.rpartition("(logs: ")[2].removesuffix(")"))
        assert "ValidationError" in (folder / "hospital.log").read_text()
    assert [str(error) for error in failed] == [line, line]
    assert [file.parts[-5] for file in out.rglob("cell.json")] == ["constant"]
    assert not (out / "results.csv").exists()


def test_a_folder_of_another_study_is_refused(load, tables, tmp_path):
    out = tmp_path / "out"
    run_study(load(sites=tables, arms=["constant"]), out, workers=0)
    other = load(sites=tables, arms=["constant"], federation={"augmentation": {"flip": True}})
    with pytest.raises(BadInput, match="holds the study small, whose federation differ"):
        run_study(other, out, workers=0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(BadInput, match="is not empty"):
        run_study(other, tmp_path / "photos", workers=0)


def test_cells_of_data_that_changed_are_refused_not_mixed(load, tables, tmp_path):
    study, out = load(sites=tables, arms=["constant"]), tmp_path / "out"
    run_study(study, out, workers=0)
    labels = tmp_path / "hospital" / "labels.csv"
    labels.write_text(labels.read_text().replace("MILD", "SEVERE", 1))
    with pytest.raises(StateError, match="was made with other data"):
        run_study(study, out, workers=0)


def test_cells_from_another_file_of_weights_are_refused(load, tables, tmp_path):
    file, out = tmp_path / "weights.safetensors", tmp_path / "out"
    model = {"backbone": "test_resnet", "image_size": 32, "weights": str(file)}
    study = load(sites=tables, arms=["constant"], federation={"model": model})
    nothing = study.federation.model_copy(
        update={"model": study.federation.model.model_copy(update={"weights": "none"})}
    )
    state = build_model(nothing, (), weights=False).backbone.state_dict()
    save_file(state, file)
    run_study(study, out, workers=0)
    run_study(study, out, workers=0)
    save_file({name: tensor + 1 for name, tensor in state.items()}, file)
    with pytest.raises(StateError, match="was made with other recipe, weights"):
        run_study(study, out, workers=0)


def test_a_damaged_cell_is_refused(load, tables, tmp_path):
    study, out = load(sites=tables, arms=["constant"]), tmp_path / "out"
    run_study(study, out, workers=0)
    (file,) = out.rglob("cell.json")
    file.write_text(file.read_text()[:100])
    with pytest.raises(StateError, match="is damaged: delete it"):
        run_study(study, out, workers=0)


def test_a_cell_starts_only_if_it_can_end_in_time():
    """Ten minutes. A local cell took 100 s before; nothing is known of pooled until it ran."""
    now = [0.0]
    limit = TimeLimit(10, clock=lambda: now[0])
    arms = ["pooled", "local", "pooled", "local", "pooled"]
    cells = [SimpleNamespace(arm=SimpleNamespace(label=arm)) for arm in arms]
    limit.book({"arm": "local", "seconds": 100.0})
    started = []
    for cell in limit.admit(cells):
        arm = cell.arm.label
        started.append((now[0], arm))
        now[0] += {"local": 90.0, "pooled": 205.0}[arm]
        limit.book({"arm": arm, "seconds": {"local": 90.0, "pooled": 205.0}[arm]})
    # The last pooled cell would end at 205 + 90 + 205 + 205 s; the local cell before it at 595 s.
    assert started == [(0, "pooled"), (205, "local"), (295, "pooled")]
    now[0] = 495
    assert list(limit.admit(cells[:2])) == [cells[1]]
    assert list(TimeLimit(None).admit(cells)) == cells


def test_a_study_without_time_stops_and_the_command_that_it_prints_goes_on(undisturbed, tmp_path):
    file, expected = undisturbed
    out = tmp_path / "out"
    stopped = run_cli("study", file, "--out", out, "--workers", 0, "--max-minutes", 0)
    assert stopped.exit_code == 3, stopped.output
    line = stopped.stdout.strip()
    assert line.startswith("Stopped: 3 of 3 cells remain. Next:  mdmt study ")
    assert not (out / "results.csv").exists()
    again = run_cli(*shlex.split(line.partition("mdmt ")[2]), "--max-minutes", 60)
    assert again.exit_code == 0, again.output
    assert tables_of(out) == expected


def test_two_studies_do_not_run_in_one_folder(load, tables, tmp_path):
    study, out = load(sites=tables, arms=["constant"]), tmp_path / "out"

    def again(finished, cells):
        with pytest.raises(StateError, match="this study runs already, as process"):
            run_study(study, out, workers=0)

    run_study(study, out, workers=0, on_plan=again)
