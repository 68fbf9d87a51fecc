"""What a site writes reaches neither a terminal nor a page as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import synthetic_site
from cli_builders import run_cli
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, RecordDict

from mdmt.blob import BLOB, pack, unpack
from mdmt.errors import RegistrationError

ESCAPE = "\x1b[2J\x1b]0;owned\x07\x9b31m"
MARKUP = "<script>alert(1)</script>[link=http://evil]"


def edited(reply, change):
    """The reply with another report."""
    record = reply.content.config_records["report"]
    record["json"] = json.dumps(change(json.loads(str(record["json"]))))
    return reply


def renamed(reply):
    """The reply with an array of another name."""
    record = reply.content.array_records["arrays"]
    blob = pack(unpack(record[BLOB].data) | {ESCAPE + MARKUP: np.zeros(1, np.float32)})
    content = RecordDict(
        {
            "arrays": ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)}),
            "report": ConfigRecord(dict(reply.content.config_records["report"])),
        }
    )
    reply.content = content
    return reply


@pytest.fixture
def run(make_config, two_sites, federate, tmp_path):
    """A run in which one site of four writes escape sequences into each place that it can."""
    sites = two_sites | {"ward": synthetic_site(tmp_path, "prognosis", seed=1)}

    def hostile(number, message, reply):
        if number != 2 or message.metadata.message_type != MessageType.TRAIN:
            return reply
        order = json.loads(str(message.content.config_records["config"]["order"]))
        kind = order["round"]
        if kind == 1:
            return Message(Error(2, f"PolicyError: {ESCAPE}{MARKUP}"), reply_to=message)
        if kind == 2:
            return edited(reply, lambda r: r | {"validation": {f"prognosis/{ESCAPE}": 1.0}})
        if kind == 3:
            return edited(reply, lambda r: r | {"losses": {ESCAPE: 1.0}})
        return renamed(reply)

    training = {"rounds": 4, "local_steps": 1, "batch_size": 4}
    return federate(make_config(sites=sites, training=training), hostile)


def test_escape_sequences_of_a_site_are_shown_nowhere(run):
    shown = run_cli("show", run)
    assert shown.exit_code == 0, shown.output
    assert "ward in round 1 (PolicyError: \\x1b[2J\\x1b]0;owned\\x07\\x9b31m" in shown.output
    run_cli("report", run)
    files = ["history.jsonl", "events.jsonl", "report.html", "release/README.md", "sites.json"]
    for text in [shown.output, *((run / file).read_text() for file in files)]:
        assert all(letter.isprintable() or letter in "\n\t" for letter in text)
    refusals = [json.loads(line)["refusals"] for line in (run / "history.jsonl").open()]
    assert [list(line) for line in refusals] == [[], *[["ward"]] * 4]
    assert "<script>alert" not in (run / "report.html").read_text()


def test_escape_sequences_in_a_card_end_with_a_line_that_can_be_shown(
    make_config, two_sites, federate
):
    def hostile(number, message, reply):
        if number != 0 or message.metadata.message_type != MessageType.QUERY:
            return reply
        return edited(reply, lambda card: card | {"device": ESCAPE})

    with pytest.raises(RegistrationError) as refused:
        federate(make_config(sites=two_sites), hostile)
    assert "did not send a valid site card" in str(refused.value)
    assert str(refused.value).isprintable()
