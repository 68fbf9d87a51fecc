"""Nothing leaves unnoticed: every line that is removed, changed, moved or cut off is found."""

from __future__ import annotations

import hashlib
import json
import logging

import numpy as np
import pytest
from blobs import blob_record
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from client.deployment.audit import AuditLog
from mdmt.blob import pack
from mdmt.config import WireConfig
from mdmt.errors import StateError
from mdmt.wire import Codec

MESSAGES = 5


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "state" / "audit.jsonl", tmp_path / "kit" / "audit-head.json")


@pytest.fixture
def written(log, reply):
    """A log of five messages, and its lines."""
    for number in range(1, MESSAGES + 1):
        log.record(reply("train", json.dumps({"site": "a", "round": number}), w=[0.5, 1.5]))
    assert log.verify() == []
    return log, log.path.read_bytes().splitlines(keepends=True)


def test_a_line_names_what_left_and_no_value_of_an_array(log, ask, reply):
    recipe = json.dumps({"name": "covid", "tasks": {}})
    asked = ask("train", json.dumps({"recipe": recipe, "run": "ab12", "round": 3}))
    report = {"site": "a", "round": 3, "validation": {"t/mae": 0.25, "t/auroc": None}}
    log.record(reply("train", json.dumps(report), **{"backbone.w": [0.125, 7.75]}), asked)
    (line,) = log.path.read_text().splitlines()
    entry = json.loads(line)
    assert {key: entry[key] for key in ("federation", "run", "round", "kind")} == {
        "federation": "covid",
        "run": "ab12",
        "round": 3,
        "kind": "train",
    }
    dtype, shape, size = entry["arrays"]["backbone.w"]
    assert (dtype, shape) == ("F32", [2])
    assert size == 8  # two float32
    assert entry["report"] == report
    blob = pack({"backbone.w": np.float32([0, 0])})
    assert entry["bytes"] == len(blob) + len(json.dumps(report))
    assert entry["time"].endswith("+00:00")
    assert "7.75" not in line


def test_a_rounded_update_is_described_as_it_was_sent(log, reply):
    """int8 with a scale for each channel."""
    update = {"backbone.w": np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)}
    base = {"backbone.w": np.zeros((64, 256), np.float32)}
    sent, _ = Codec(WireConfig(up="int8")).upload(update, base, {})
    message = reply("train", "{}")
    message.content["arrays"] = blob_record(sent)
    log.record(message)
    (entry,) = log.entries()
    assert entry.arrays == {
        "backbone.w": ("I8", (64, 256), 64 * 256),
        "backbone.w:scale": ("F32", (64,), 256),
    }
    assert entry.bytes == len(sent) + len("{}")


def test_an_error_is_logged_with_its_reason_and_round(log, ask):
    asked = ask("train", json.dumps({"round": 2}))
    log.record(Message(Error(2, "ImageError at the site"), reply_to=asked), asked)
    (entry,) = log.entries()
    assert (entry.kind, entry.round, entry.error) == ("train", 2, "ImageError at the site")
    assert entry.bytes == len("ImageError at the site")


def test_what_our_own_client_does_not_send_is_seen(log, ask):
    content = RecordDict(
        {
            "report": ConfigRecord({"json": '{"x": NaN}'}),
            "hidden": ConfigRecord(
                {"pixels": b"\x00" * 4096, "levels": [1, 2, 3], "note": "hello"}
            ),
            "numbers": MetricRecord({"loss": float("inf")}),
        }
    )
    log.record(Message(content, reply_to=ask("train", "{}")))
    (entry,) = log.entries()
    assert entry.report is None
    assert entry.other == {
        "report/json": '{"x": NaN}',
        "hidden/pixels": "bytes of 4096",
        "hidden/levels": "list of 3",
        "hidden/note": "hello",
        "numbers/loss": "inf",
    }
    assert entry.bytes > 4096
    assert log.verify() == []


@pytest.mark.parametrize(
    "order",
    ["", "[]", "[" * 100_000, '{"round": "x", "run": [1], "recipe": 7}', '{"round": 1e999}'],
)
def test_no_order_of_a_server_keeps_a_message_from_being_logged(log, ask, reply, order):
    log.record(reply("train", '{"round": 4}'), ask("train", order))
    (entry,) = log.entries()
    assert (entry.run, entry.round) == (None, 4)


@pytest.mark.parametrize("removed", range(MESSAGES))
def test_any_removed_line_is_found(written, removed):
    log, lines = written
    log.path.write_bytes(b"".join(lines[:removed] + lines[removed + 1 :]))
    problems = log.verify()
    assert problems
    assert problems[0].line == removed + 1  # where the next line stands now, or none


def test_any_changed_byte_is_found(written):
    log, lines = written
    whole = b"".join(lines)
    for position in range(0, len(whole), 3):
        other = b"0" if whole[position : position + 1] != b"0" else b"1"
        log.path.write_bytes(whole[:position] + other + whole[position + 1 :])
        problems = log.verify()
        number = whole[:position].count(b"\n") + 1
        assert {problem.line for problem in problems} & {number, number + 1}, position


@pytest.mark.parametrize("first", range(MESSAGES))
@pytest.mark.parametrize("second", range(MESSAGES))
def test_any_two_lines_that_changed_places_are_found(written, first, second):
    log, lines = written
    lines[first], lines[second] = lines[second], lines[first]
    log.path.write_bytes(b"".join(lines))
    problems = log.verify()
    assert bool(problems) == (first != second)
    if problems:
        assert problems[0].line == min(first, second) + 1


def test_any_cut_tail_is_found(written):
    log, lines = written
    whole = b"".join(lines)
    for size in range(len(whole)):
        log.path.write_bytes(whole[:size])
        missing = MESSAGES - whole[:size].count(b"\n")
        last = log.verify()[-1]
        assert last.text == f"{missing} of {MESSAGES} lines are missing"
        assert last.line == MESSAGES - missing + 1
    log.path.unlink()
    assert log.verify()


def test_a_chain_that_was_forged_to_its_end_is_found_by_the_head(written):
    log, lines = written
    entry = json.loads(lines[-1])
    entry["bytes"] = 1
    log.path.write_bytes(b"".join(lines[:-1]) + json.dumps(entry).encode() + b"\n")
    assert [problem.line for problem in log.verify()] == [MESSAGES]


def test_a_missing_or_damaged_head_is_found(written):
    log, _ = written
    log.head.unlink()
    assert log.verify()
    log.head.write_text("{")
    (problem,) = log.verify()
    assert "audit-head.json is damaged" in str(problem)


def test_a_log_that_was_tampered_with_is_not_written_on(written, reply):
    log, lines = written
    log.path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(StateError, match=r"line 5: 1 of 5 lines are missing.*mdmt site audit"):
        log.record(reply("train", "{}"))
    assert log.path.read_bytes() == b"".join(lines[:-1])


def test_a_crash_at_any_byte_of_a_line_is_put_right_and_said(written, reply, caplog):
    """The head is written after the line: until then it is one behind."""
    log, lines = written
    head = json.loads(log.head.read_text())
    before = {"lines": MESSAGES - 1, "hash": hashlib.sha256(lines[-2].rstrip(b"\n")).hexdigest()}
    assert head.keys() == before.keys()
    whole, start = b"".join(lines), len(b"".join(lines[:-1]))
    caplog.set_level(logging.WARNING)
    for size in [*range(start + 1, len(whole), 7), len(whole) - 1, len(whole)]:
        log.path.write_bytes(whole[:size])
        log.head.write_text(json.dumps(before))
        assert log.verify() == [], "a crash is no tampering"
        caplog.clear()
        log.record(reply("train", '{"round": 9}'))
        assert log.verify() == []
        entries = log.entries()
        assert entries[-1].round == 9
        complete = size == len(whole)
        assert len(entries) == MESSAGES + complete
        expected = "may not be sent" if complete else "half a line"
        assert expected in str(entries[-1].recovered)
        assert expected in caplog.text


def test_two_lines_that_the_head_does_not_know_are_no_crash(written):
    log, lines = written
    known = hashlib.sha256(lines[-3].rstrip(b"\n")).hexdigest()
    log.head.write_text(json.dumps({"lines": MESSAGES - 2, "hash": known}))
    assert [problem.line for problem in log.verify()] == [MESSAGES - 1]


def test_a_line_is_on_the_disk_before_the_head_and_both_before_the_message(log, reply, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    log.record(reply("train", "{}"))
    monkeypatch.setattr("client.deployment.audit.write_json", full)
    with pytest.raises(OSError, match="No space"):
        log.record(reply("train", "{}"))
    monkeypatch.undo()
    assert len(log.entries()) == 2
    log.record(reply("train", "{}"))
    assert "may not be sent" in str(log.entries()[-1].recovered)
    assert log.verify() == []
