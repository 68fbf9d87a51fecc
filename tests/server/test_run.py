"""Files of a run that a crash, or another attempt at the run, has left something in."""

from __future__ import annotations

import json
import os

import pytest

from mdmt.runs import read_lines
from server.run import RunDirectory, last_event


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
    run.event("roll call")
    earlier = len(read_lines(run.folder / "events.jsonl"))
    ended = {"event": "failed", "process": os.getpid() + 1, "message": "was stopped"}
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(ended) + "\n")
    assert last_event(run.folder, earlier) == {}
    run.event("roll call")
    with (run.folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(ended) + "\n")
    assert last_event(run.folder, earlier)["event"] == "roll call"
    run.event("done")
    assert last_event(run.folder, earlier)["event"] == "done"
