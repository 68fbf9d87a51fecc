"""A real federation: TLS, keys, a proxy, three sites; and two of the faults it survives.

The whole matrix is in ``matrix_of_faults.py`` and ``matrix_of_refusals.py`` (`make e2e`).
"""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from real_federation import SITES
from simulated_federation import assert_same_result, expected

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_healthy_run_gives_the_bits_of_the_simulation(real, tmp_path):
    done = real.run("healthy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same_result(real.folder / "healthy", expected(real, tmp_path / "simulated"))
    for text in ("severity at clinic", "prognosis at hospital", "refused: none"):
        assert text in done.stdout
    history = real.lines("healthy", "history")
    assert [line["round"] for line in history] == [0, 1, 2, 3]
    assert all(line["refusals"] == {} for line in history)


def test_what_the_database_keeps_of_replies_is_unreadable(real):
    """Flower keeps messages after a run: updates of single sites were found there bit for bit."""
    replies = [
        (site, *file.read_bytes().partition(b"\n")[2].partition(b"\n"))
        for site in SITES
        for file in (real.state(site) / "replies").iterdir()
    ]
    reports = [json.loads(text)["report"] for _, text, _, _ in replies]
    blobs = [(site, blob) for site, _, _, blob in replies if blob]
    assert len(blobs) >= len(SITES)
    names = {name for text in reports for name in re.findall(r'"(\w+/[\w ]+)"', text)}
    assert {"prognosis/auroc", "severity/mae"} <= names
    kept = databases(real)
    checkpoints = (real.folder / "healthy" / "checkpoints").iterdir()
    found = [share_found(file.read_bytes(), kept) for file in checkpoints]
    assert max(found) > 0.5, "what the server sent lies there, so that this search finds things"
    for site, blob in blobs:
        others = [other for name, other in blobs if name != site]
        assert share_found(blob, kept, others) == 0.0
    for secret in {text[:60] for text in reports} | names:
        assert not any(secret.encode() in data for data in kept), secret


def share_found(content, places, others=()):
    """Share of the parts of a content that are in one of the places.

    Parts of one repeated number, such as a weight of 1, are everywhere and do not count. Parts that
    are in `others` too do not depend on the data of a site: the decay of a weight without a
    gradient. Their mean is equal to them, and the server sends it.
    """
    parts = [content[i : i + 16] for i in range(len(content) // 8, len(content), 9001)]
    parts = [part for part in parts if len(set(part)) > 8]
    parts = [part for part in parts if not any(part in other for other in others)]
    assert len(parts) > 100
    return sum(any(part in place for place in places) for part in parts) / len(parts)


def databases(real):
    """The content of the SuperLink's database and of its write-ahead log."""
    files = list(real.server_kit.folder.glob("superlink.db*"))
    assert {file.name for file in files} >= {"superlink.db", "superlink.db-wal"}
    return [file.read_bytes() for file in files]


def test_what_left_a_site_is_in_its_audit_log(real):
    done = real.mdmt("site", "audit", real.site_kit("hospital"))
    assert "intact: 6 messages" in done.stdout  # card, three rounds, last and best tested
    events = [event for event in real.lines("healthy", "events") if event.get("site") == "hospital"]
    heads = [event["head"] for event in events]
    assert len(set(heads)) == 6, "every reply carried the head of its line"
    expected_heads = [word for head in heads for word in ("--expect", head)]
    done = real.mdmt("site", "audit", real.site_kit("hospital"), *expected_heads)
    assert "line 6 has the hash" in done.stdout
    log = real.state("hospital") / "audit.jsonl"
    log.write_text("".join(log.read_text().splitlines(True)[:-1]))
    done = real.mdmt("site", "audit", real.site_kit("hospital"), "--expect", heads[-1], check=False)
    assert done.returncode == 1
    assert f"no line has the hash {heads[-1]}" in done.stdout
    (real.site_kit("hospital") / "audit-head.json").unlink()
    log.unlink()


def test_status_tells_sites_and_runs(real):
    done = real.mdmt("server", "status", "kits/server")
    for site in SITES:
        assert any(f"{site}" in line and "online" in line for line in done.stdout.splitlines())
    assert "finished:completed" in done.stdout
    assert "3 of 3" in done.stdout


def test_a_site_whose_training_is_killed_repeats_its_order(real, tmp_path):
    pid_file = real.fault_file("ward").with_suffix(".pid")
    real.misbehave("ward", "pause 2")
    real.start_run("killed-worker")
    real.wait(pid_file.exists, "the worker to train")
    pid = int(pid_file.read_text())
    real.behave("ward")
    os.kill(pid, signal.SIGKILL)
    assert real.end_of_run() == 0, real.log("run")
    assert "signal SIGKILL); a new process repeats the same order" in real.log("ward")
    assert real.refusals("killed-worker") == {}
    assert_same_result(real.folder / "killed-worker", expected(real, tmp_path / "simulated"))


def test_a_superlink_that_is_killed_costs_a_resume_and_no_round(real, tmp_path):
    real.start_run("killed-superlink")
    real.wait_for_event("killed-superlink", "reply", round=2)
    os.kill(real.pid("server", "SuperLink"), signal.SIGKILL)
    assert real.end_of_run() == 1
    assert "continue with --resume" in real.log("run")
    booked = real.lines("killed-superlink", "history")
    real.mdmt("server", "status", "kits/server", "--wait", "60")
    done = real.run("killed-superlink", "--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    history = real.lines("killed-superlink", "history")
    assert history[: len(booked)] == booked, "what was told as done stays"
    assert [line["round"] for line in history] == [0, 1, 2, 3]
    assert_same_result(real.folder / "killed-superlink", expected(real, tmp_path / "simulated"))


def test_everything_ends_when_it_is_told_to(real):
    for name in [*SITES, "server"]:
        assert real.stop(name) == 0, real.log(name)
    real.wait(lambda: not real.left_behind(), f"processes {real.left_behind()} to end", 15)
