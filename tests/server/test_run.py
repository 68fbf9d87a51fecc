"""Files of a run that a crash, or another attempt at the run, has left something in."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading

import pytest
import torch

from mdmt.checkpoints import RoundFiles
from mdmt.errors import BadInput, RunError, StateError
from mdmt.results.runs import read_lines
from server.run import RunDirectory, last_event, new_run_folder
from server.run_lock import only_writer


@pytest.fixture
def run(tmp_path, make_config):
    return RunDirectory(tmp_path / "run", make_config())


def test_half_a_line_is_cut_off_before_the_next_one(run):
    run.event("round", round=1)
    file = run.folder / "events.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"event": "bo')
    run.event("round", round=2)
    assert file.read_text().startswith(whole)
    assert [event["round"] for event in read_lines(file)] == [1, 2]


def test_a_file_that_is_but_half_a_line_begins_anew(run):
    run.folder.mkdir()
    (run.folder / "history.jsonl").write_text('{"rou')
    run.history({"round": 0})
    assert read_lines(run.folder / "history.jsonl") == [{"round": 0}]


def test_what_an_earlier_attempt_says_late_is_not_taken_for_this_one(run):
    run.event("registration")
    earlier = len(read_lines(run.folder / "events.jsonl"))
    ended = {"event": "failed", "process": os.getpid() + 1, "message": "was stopped"}
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(ended) + "\n")
    assert last_event(run.folder, earlier) == {}
    run.event("registration")
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(ended) + "\n")
    assert last_event(run.folder, earlier)["event"] == "registration"
    run.event("done")
    assert last_event(run.folder, earlier)["event"] == "done"


def test_a_checkpoint_is_whole_before_its_round_is_booked(run, monkeypatch):
    """It is written while the sites train, as slowly as it may be."""
    go = threading.Event()
    save = RoundFiles.save

    def slow(self, *arguments):
        assert go.wait(30)
        save(self, *arguments)

    monkeypatch.setattr(RoundFiles, "save", slow)
    facts = {"line": {"round": 1}}
    with run:
        run.save_round(1, {"w": torch.ones(2)}, facts, [1])
        facts["line"]["round"] = 2  # the next round goes on
        threading.Timer(0.2, go.set).start()
        run.history({"round": 1})
        assert (run.folder / "checkpoints" / "round-00001.safetensors").exists()
    assert run.checkpoints.load(1).facts == {"line": {"round": 1}}


def test_what_went_wrong_with_a_checkpoint_is_told_and_its_round_is_not_booked(run, monkeypatch):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RoundFiles, "save", full)
    with run:
        run.save_round(1, {}, {}, [1])
        with pytest.raises(OSError, match="No space left"):
            run.history({"round": 1})
    assert not (run.folder / "history.jsonl").exists()


def test_a_server_that_fails_still_finishes_its_checkpoint(run):
    def fail():
        with run:
            run.save_round(1, {"w": torch.ones(2)}, {}, [1])
            raise RunError("the sites are gone")

    with pytest.raises(RunError):
        fail()
    assert RoundFiles(run.folder / "checkpoints", {}).load(1).tensors["w"].tolist() == [1, 1]


def compete(folder, barrier, results):
    """Take the same new folder as another process, again and again."""
    for number in range(100):
        barrier.wait(20)
        try:
            new_run_folder(folder / str(number), "name")
        except BadInput:
            results.put((number, False))
        else:
            results.put((number, True))


def test_of_two_processes_that_choose_the_same_folder_at_once_one_gets_it(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=compete, args=(tmp_path, barrier, results)) for _ in "ab"]
    for process in processes:
        process.start()
    told = [results.get(timeout=20) for _ in range(200)]
    for process in processes:
        process.join(20)
    winners = [number for number, won in told if won]
    assert sorted(winners) == list(range(100))


def test_one_process_at_a_time_writes_a_run(run, make_config):
    writing = only_writer(run.folder, patience=0.2)
    with run, pytest.raises(StateError, match="another process writes this run"), writing:
        pass
    with RunDirectory(run.folder, make_config()):
        pass  # the first one has ended


def test_a_run_waits_until_an_earlier_attempt_has_ended(run):
    run.folder.mkdir()
    entered = threading.Event()

    def earlier():
        with only_writer(run.folder):
            entered.set()
            threading.Event().wait(0.3)
            (run.folder / "ended").touch()

    thread = threading.Thread(target=earlier)
    thread.start()
    entered.wait(5)
    with run:
        assert (run.folder / "ended").exists()
    thread.join()
