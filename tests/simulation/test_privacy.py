"""Nothing but weights, agreed metrics and the site card leaves a site.

A patient id, a path and a pixel pattern are planted in a site's data, and searched in every byte of
every message, in the server's files and log, and in the text of every error.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from builders import PROGNOSIS, SEVERITY, rows, site, synthetic_site
from flwr.app import MessageType
from PIL import Image

from client.site import Site
from mdmt.config import FederationConfig, Policy
from mdmt.data.cohort import open_cohort
from mdmt.errors import IncompleteError, RegistrationError

PATIENT = "SENTINELPATIENT"
FOLDER = "SENTINELFOLDER"


def message_bytes(message):
    """Every byte of a message as it would travel: arrays, texts, metadata, error."""
    parts = [str(vars(message.metadata)).encode()]
    if message.has_error():
        return b"".join([*parts, str(message.error.reason).encode()])
    for record in message.content.array_records.values():
        parts += [name.encode() + array.data for name, array in record.items()]
    for record in message.content.config_records.values():
        parts += [f"{name}={value}".encode() for name, value in record.items()]
    assert not message.content.metric_records
    return b"".join(parts)


@pytest.fixture
def planted(make_config, write_table, tmp_path):
    """A federation whose site `ward` holds the sentinels; and the bytes of its pixel pattern."""
    table = [
        row | {"patient": f"{PATIENT}-{row['patient']}"}
        for row in rows(8, prognosis=["MILD", "SEVERE"])
        + rows(4, "val", prognosis=["MILD", "SEVERE"])
        + rows(4, "test", prognosis=["MILD", "SEVERE"])
    ]
    dataset = write_table(FOLDER, table)
    config: FederationConfig = make_config(
        tasks={"prognosis": dict(PROGNOSIS), "severity": dict(SEVERITY)},
        references=["constant", "local"],
        sites={
            "clinic": synthetic_site(tmp_path, "severity"),
            "ward": site(dataset, "prognosis", cache_dir=str(tmp_path / "cache")),
        },
    )
    cohort = open_cohort(config.sites["ward"], config)
    image = np.asarray(Image.open(cohort.manifest.images[0]))
    patterns = [image.tobytes()[:64]]
    for dtype in (np.uint8, np.float32):
        patterns.append(cohort.pixels[0].astype(dtype).tobytes()[:256])
    patterns.append((cohort.pixels[0] / np.float32(255)).astype(np.float32).tobytes()[:256])
    return config, [PATIENT.encode(), FOLDER.encode(), *patterns]


def assert_clean(data, secrets, where):
    for secret in secrets:
        assert secret not in data, f"{where} holds {secret[:20]!r}"


def server_log(caplog):
    """What the server logs; in one process the sites' own loggers write to the same place."""
    lines = [r.getMessage() for r in caplog.records if r.name.startswith(("server", "flwr"))]
    return "\n".join(lines).encode()


def server_files(out):
    """What the server writes, without the simulation's inputs and the sites' disks."""
    return [
        file
        for file in out.rglob("*")
        if file.is_file() and file.name != "federation.yaml" and (out / "sites") not in file.parents
    ]


def test_no_message_file_or_log_of_a_whole_run_holds_a_sentinel(planted, federate, caplog):
    config, secrets = planted
    caplog.set_level(logging.DEBUG)
    seen = []

    def record(number, message, reply):
        seen.append((message_bytes(message), message_bytes(reply)))
        return reply

    out = federate(config, record)
    assert len(seen) >= 12  # registration, 2 rounds, final evaluation, best rounds, references
    for asked, answered in seen:
        assert_clean(asked, secrets, "a message to a site")
        assert_clean(answered, secrets, "a message from a site")
    for file in server_files(out):
        assert_clean(file.read_bytes(), secrets, file.name)
    assert_clean(server_log(caplog), secrets, "the log")


def numbers(value):
    """Every number in a report, but for its round and seconds."""
    if isinstance(value, dict):
        return [n for k, v in value.items() if k not in ("round", "seconds") for n in numbers(v)]
    return [value] if isinstance(value, int | float) else []


def leaves(value):
    """Every value of nested dictionaries."""
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in leaves(inner)]
    return [value]


def test_no_message_of_a_whole_run_tells_a_small_count(planted, federate):
    """The ward has 8 training images, 4 of each class, and 4 for validation and for the test."""
    config, _ = planted

    def run(minimum):
        policy = Policy(min_examples_per_metric=minimum)
        ward = config.sites["ward"].model_copy(update={"policy": policy})
        changed = config.model_copy(update={"sites": config.sites | {"ward": ward}})
        told = []

        def record(number, message, reply):
            if number == 1:  # sites are numbered by name: clinic, ward
                told.append(json.loads(reply.content.config_records["report"]["json"]))
            return reply

        federate(changed, record)
        return told

    assert sum(numbers(report).count(4) for report in run(4)) >= 8  # the search finds them
    reports = run(5)
    assert len(reports) >= 6  # registration, 2 rounds, final evaluation, best round, references
    for report in reports:
        assert 4 not in numbers(report)
        for metrics in (report.get("validation"), *report.get("metrics", {}).values()):
            assert set(leaves(metrics or {})) <= {None}
    card, first = reports[:2]
    assert card["counts"]["prognosis"] == {"train": 8, "val": None, "test": None}
    assert card["histogram"]["prognosis"] == {"": None}
    assert first["losses"]["prognosis"] is None, "a loss is a sum over labels"


@pytest.mark.parametrize("phase", [MessageType.QUERY, MessageType.TRAIN, MessageType.EVALUATE])
def test_an_error_at_a_site_tells_the_server_its_kind_only(
    planted, federate, caplog, monkeypatch, tmp_path, phase
):
    config, secrets = planted
    caplog.set_level(logging.DEBUG)

    def fail(self, *arguments):
        raise ValueError(f"{self.config.dataset.root}: {PATIENT} cannot be read")

    name = {MessageType.QUERY: "card"}.get(phase, phase)
    original = getattr(Site, name)

    def fail_at_ward(self, *arguments):
        return (fail if self.config.name == "ward" else original)(self, *arguments)

    monkeypatch.setattr(Site, name, fail_at_ward)
    answers = []

    def record(number, message, reply):
        if message.metadata.message_type == phase:
            answers.append(message_bytes(reply))
        return reply

    with suppress(RegistrationError, IncompleteError):
        federate(config, record)
    out = tmp_path / "run-0"
    told = "".join(file.read_text() for file in out.glob("*.jsonl"))
    assert "ValueError at the site; its own log says more" in told
    assert any(b"ValueError at the site" in answer for answer in answers)
    for answer in answers:
        assert_clean(answer, secrets, f"the answer to {phase}")
    assert_clean(told.encode() + server_log(caplog), secrets, "what the server knows")
    own = (tmp_path / "run-0" / "sites" / "ward" / "site.log").read_text()
    assert PATIENT in own, "the hospital itself must be able to read what went wrong"


def test_a_log_that_cannot_be_written_stops_nothing_and_tells_nothing(
    planted, federate, caplog, monkeypatch
):
    config, secrets = planted
    monkeypatch.setattr(Site, "log_file", Path("/dev/null") / FOLDER / "site.log")
    out = federate(config.model_copy(update={"references": ()}))
    assert (out / "metrics.json").is_file()
    assert "the site's log cannot be written" in caplog.text
    assert_clean(server_log(caplog), secrets, "the log")
