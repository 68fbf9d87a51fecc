"""What a site was asked is on record, and every reply carries the head of the log."""

from __future__ import annotations

import hashlib
import json

import pytest
from blobs import pack_record
from flwr.app import ConfigRecord, Error, Message, RecordDict
from numpy import float32

from client.deployment import recipes
from client.deployment.audit import AuditLog, add_head
from mdmt.audit_head import head_of, without_head
from mdmt.blob import BLOB
from mdmt.messages import order_hash

RECIPE = json.dumps({"name": "covid", "training": {"rounds": 3}}, sort_keys=True)
ORDER = {
    "run": "0123456789ab",
    "round": 2,
    "recipe": RECIPE,
    "coefficients": {"severity": 0.25},
    "lr_factor": 0.5,
    "keep": [1],
}
OLD = [
    '{"time": "2026-11-25T22:26:33+00:00", "kind": "query", "flower_run": 17, "report":'
    ' {"name": "a"}, "bytes": 425, "previous": "' + "0" * 64 + '"}',
    '{"time": "2026-11-25T22:26:38+00:00", "kind": "train", "federation": "covid", "run": "ab",'
    ' "flower_run": 17, "round": 1, "arrays": {"w": ["F32", [2], 8]}, "beside": {"x": "y"},'
    ' "report": {"round": 1}, "bytes": 9, "previous": "PREVIOUS"}',
]
"""Lines as 0.1.0 and 0.2.0 wrote them."""


@pytest.fixture
def log(tmp_path):
    return AuditLog(tmp_path / "state" / "audit.jsonl", tmp_path / "kit" / "audit-head.json")


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_line_says_what_was_asked(log, ask, reply):
    asked = ask("train", json.dumps(ORDER), **{"backbone.w": [1.0, 2.0]})
    log.record(reply("train", '{"round": 2}'), asked)
    (entry,) = log.entries()
    assert (entry.run, entry.round, entry.federation) == ("0123456789ab", 2, "covid")
    assert entry.recipe == sha256(RECIPE)
    assert entry.asked == {"coefficients": {"severity": 0.25}, "lr_factor": 0.5, "keep": [1]}
    blob = asked.content.array_records["arrays"][BLOB].data
    assert entry.order == order_hash("train", json.dumps(ORDER), blob)
    text = (log.path.parent / "recipes" / f"{entry.recipe}.json").read_text()
    assert text == RECIPE, "the hash of the file is its name"


@pytest.mark.parametrize("part", ["kind", "order", "arrays"])
def test_the_hash_of_an_order_covers_all_of_it(log, ask, reply, part):
    kind = "evaluate" if part == "kind" else "train"
    order = ORDER | {"lr_factor": 0.75} if part == "order" else ORDER
    values = [1.0, 2.5] if part == "arrays" else [1.0, 2.0]
    log.record(reply("train", "{}"), ask("train", json.dumps(ORDER), w=[1.0, 2.0]))
    log.record(reply("train", "{}"), ask("train", json.dumps(ORDER), w=[1.0, 2.0]))
    log.record(reply("train", "{}"), ask(kind, json.dumps(order), w=values))
    first, again, other = log.entries()
    assert first.order == again.order != other.order


def test_a_refused_order_is_on_record_too(log, ask):
    asked = ask("query", json.dumps({"protocol": 2, "recipe": RECIPE}))
    log.record(Message(Error(2, "policy: recipes does not list it"), reply_to=asked), asked)
    (entry,) = log.entries()
    assert (entry.recipe, entry.asked) == (sha256(RECIPE), {"protocol": 2})
    assert log.recipes.read(entry.recipe) == RECIPE


def test_a_server_cannot_fill_the_disk_with_recipes(log, ask, reply, monkeypatch):
    monkeypatch.setattr(recipes, "MOST_ASKED", 5)
    approved = json.dumps({"name": "agreed"})
    for number in range(20):
        asked = ask("query", json.dumps({"recipe": json.dumps({"name": f"n{number}"})}))
        log.record(reply("query", "{}"), asked)
    long = json.dumps({"name": "x" * recipes.LONGEST_ASKED})
    log.record(reply("query", "{}"), ask("query", json.dumps({"recipe": long})))
    assert len(list(log.recipes.folder.iterdir())) == 5
    assert all(entry.recipe for entry in log.entries()), "the hash is on record all the same"
    log.recipes.approve(approved)
    assert log.recipes.read(sha256(approved)) == approved


def test_an_order_of_any_length_gives_a_short_line(log, ask, reply):
    order = ORDER | {"coefficients": {f"task{n}": 0.0 for n in range(20_000)}}
    log.record(reply("train", "{}"), ask("train", json.dumps(order)))
    (entry,) = log.entries()
    assert entry.asked == {"characters": len(json.dumps(order))}
    assert len(log.path.read_bytes()) < 2000


def test_a_changed_recipe_is_not_read(log):
    log.recipes.approve(RECIPE)
    (file,) = log.recipes.folder.iterdir()
    file.write_text(RECIPE.replace("3", "4"))
    assert log.recipes.read(sha256(RECIPE)) is None
    log.recipes.approve(RECIPE)
    assert log.recipes.read(sha256(RECIPE)) == RECIPE


def test_lines_of_earlier_versions_are_intact(log, reply):
    first = OLD[0]
    lines = [first, OLD[1].replace("PREVIOUS", sha256(first))]
    log.path.parent.mkdir()
    log.path.write_text("".join(f"{line}\n" for line in lines))
    log.head.parent.mkdir()
    log.head.write_text(json.dumps({"lines": 2, "hash": sha256(lines[1])}))
    assert log.verify() == []
    assert [entry.kind for entry in log.entries()] == ["query", "train"]
    log.record(reply("train", "{}"))
    assert log.verify() == []
    assert log.hashes()[:2] == [sha256(line) for line in lines]


def test_a_reply_carries_the_hash_of_its_line(log, ask, reply):
    answer = reply("train", '{"round": 2}', w=[1.0])
    assert head_of(answer) is None
    head = log.record(answer)
    add_head(answer, head)
    assert head_of(answer) == head == log.hashes()[-1]
    refusal = Message(Error(2, "policy: max_rounds allows 1"), reply_to=ask("train", "{}"))
    add_head(refusal, log.record(refusal))
    assert head_of(refusal) == log.hashes()[-1]
    assert refusal.error.code == 2
    assert without_head(refusal.error.reason) == "policy: max_rounds allows 1"


def test_what_flower_answers_in_the_stead_of_a_site_has_no_head(ask):
    for reason in ("The node is gone.", "", "x [audit 12]", f"[audit {'g' * 64}]"):
        assert head_of(Message(Error(5, reason), reply_to=ask("train", "{}"))) is None
    content = RecordDict({"audit": ConfigRecord({"head": "\x1b[2J"})})
    content["arrays"] = pack_record({"w": float32([1])})
    assert head_of(Message(content, reply_to=ask("train", "{}"))) is None
