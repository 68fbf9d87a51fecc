"""Faults while a federation runs, each injected into real processes (`make e2e`).

A site that dies, or cannot be reached, misses no round if it is back before the deadline. After any
other fault the history is complete, the refusals tell who and why, and the others went on. In both
cases the final backbone and metrics are those of a simulation in which the same sites missed the
same rounds: none, in the first.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from disks import full_disk, read_only_disk
from links import Link
from real_federation import SITES, RealFederation
from simulated_federation import assert_same_result, expected

from mdmt.deployment.kits import KIT_FILE
from mdmt.files import read_json, write_json

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXCEPTION = "ValueError at the site; its own log says more"
HOSTILE = {
    "nan": "is not finite",
    "absurd": "times as long as aggregation.norm_bound 15 allows",
    "shape": "is float32 [3,",
    "extra": "array heads.prognosis.weight was not asked for",
    "large": "bytes, at most",
    "odd": "the reply holds no valid report",
    "foreign": "the report names the task 'prognosis', which the site lacks",
    "negative": "the reply holds no valid report",
}


@pytest.fixture(autouse=True)
def _at_rest(real):
    real.at_rest()


def assert_survived(
    real: RealFederation, out: str, simulated: Path, *missed: tuple[str, int], trained: bool = False
) -> None:
    """Those sites missed those rounds, and nothing else is different.

    With `trained` the sites did what they should, but the server could not use it.
    """
    rounds = yaml.safe_load(real.config_file.read_text())["training"]["rounds"]
    assert [line["round"] for line in real.lines(out, "history")] == list(range(rounds + 1))
    assert real.missed(out) == set(missed)
    lost = {"unheard" if trained else "absent": missed}
    assert_same_result(real.folder / out, expected(real, simulated, **lost))


def test_an_exception_tells_the_server_its_kind_and_nothing_else(real, tmp_path):
    real.misbehave("ward", "exception 2")
    real.complete_run("exception")
    assert real.refusals("exception") == {("ward", 2): EXCEPTION}
    assert_survived(real, "exception", tmp_path / "simulated", ("ward", 2))
    secret = b"patient-4711"
    assert secret in (real.state("ward") / "site.log").read_bytes()
    files = [*(real.folder / "exception").rglob("*"), *real.server_kit.folder.rglob("*")]
    assert [file for file in files if file.is_file() and secret in file.read_bytes()] == []


def test_hostile_answers_are_refused_by_name_and_the_others_go_on(real, tmp_path):
    real.write_config(training={"rounds": len(HOSTILE) + 1})
    rounds = {kind: number for number, kind in enumerate(HOSTILE, start=1)}
    real.misbehave("ward", *(f"{kind} {number}" for kind, number in rounds.items()))
    said = real.complete_run("hostile")
    refusals = real.refusals("hostile")
    for kind, number in rounds.items():
        assert HOSTILE[kind] in refusals["ward", number], kind
        assert f"refused: ward, round {number}: " in said
    missed = [("ward", number) for number in rounds.values()]
    assert_survived(real, "hostile", tmp_path / "simulated", *missed, trained=True)


def test_a_site_that_is_too_slow_misses_a_round_and_is_back_in_the_next(real, tmp_path):
    real.write_config(training={"round_timeout": 20})
    real.misbehave("ward", "slow60 2")
    real.complete_run("slow")
    assert real.refusals("slow") == {("ward", 2): "no answer within 20 s"}
    assert_survived(real, "slow", tmp_path / "simulated", ("ward", 2))


def kill_supernode(real):
    """The worker ends what it does, and then has the reply."""
    os.kill(real.pid("ward", "SuperNode"), signal.SIGKILL)
    real.behave("ward")


def kill_launcher(real):
    assert real.stop("ward", signal.SIGKILL) == -signal.SIGKILL
    real.behave("ward")
    real.start_site("ward", faulty=True)


def kill_launcher_and_supernode(real):
    """As when the machine loses its power: nobody tells the server."""
    supernode = real.pid("ward", "SuperNode")
    os.kill(supernode, signal.SIGSTOP)  # it must not end in order when its parent dies
    assert real.stop("ward", signal.SIGKILL) == -signal.SIGKILL
    os.kill(supernode, signal.SIGKILL)
    real.behave("ward")
    real.start_site("ward", faulty=True)


def kill_worker(real):
    pid = int(real.fault_file("ward").with_suffix(".pid").read_text())
    real.behave("ward")
    os.kill(pid, signal.SIGKILL)


def stop_and_start(real):
    assert real.stop("ward") == 0, real.log("ward")
    assert "ward" not in real.online()
    real.behave("ward")
    real.start_site("ward", faulty=True)


DEATHS = [kill_supernode, kill_launcher, kill_launcher_and_supernode, kill_worker, stop_and_start]


@pytest.mark.parametrize("die", DEATHS, ids=lambda die: die.__name__)
def test_a_site_that_dies_while_it_trains_misses_no_round(real, tmp_path, die):
    """Its deadline is shorter than the minute for which Flower would refuse a successor."""
    real.write_config(training={"round_timeout": 55})
    out = die.__name__
    real.misbehave("ward", "hold 2")
    real.start_run(out)
    real.wait(real.fault_file("ward").with_suffix(".pid").exists, "the worker to train")
    die(real)
    assert real.end_of_run() == 0, real.log("run")
    assert real.refusals(out) == {}
    assert_survived(real, out, tmp_path / "simulated")
    real.mdmt("site", "audit", real.site_kit("ward"))


@pytest.fixture
def link(real):
    """The way from ward to the server, which can be cut."""
    link = Link(int(real.address.rpartition(":")[2]))
    facts = real.site_kit("ward") / KIT_FILE
    before = facts.read_text()
    real.stop("ward")
    write_json(facts, read_json(facts) | {"server": f"localhost:{link.port}"})
    real.start_site("ward", faulty=True)
    real.wait(lambda: real.online() == set(SITES), "the sites")
    yield link
    real.stop("ward")
    facts.write_text(before)
    link.close()


def test_a_link_that_is_cut_for_90_seconds_costs_no_round(real, tmp_path, link):
    real.write_config(training={"round_timeout": 180})
    real.misbehave("ward", "hold 2")
    real.start_run("cut")
    real.wait(real.fault_file("ward").with_suffix(".pid").exists, "the worker to train")
    link.cut()
    real.behave("ward")  # it answers into the cut link
    time.sleep(90)
    assert "ward" not in real.online(), "the server missed it"
    link.mend()
    assert real.end_of_run() == 0, real.log("run")
    assert "ward is not connected" in real.log("run")
    assert real.refusals("cut") == {}
    assert_survived(real, "cut", tmp_path / "simulated")


def test_the_final_test_waits_for_a_site_and_resume_completes_it(real, tmp_path):
    real.write_config(training={"round_timeout": 25})
    real.misbehave("clinic", "hold 3")
    real.start_run("away")
    real.wait_for_event("away", "reply", round=3, site="ward")
    assert real.stop("ward", signal.SIGKILL) == -signal.SIGKILL
    real.behave("clinic")
    assert real.end_of_run() == 1
    said = " ".join(real.log("run").split())
    assert "ward (not connected) did not measure last" in said
    assert "missing results" in said
    metrics = read_json(real.folder / "away" / "metrics.json")
    assert metrics["missing"]["last"] == {"ward": "not connected"}
    assert (
        "missing: the site was not tested"
        in (real.folder / "away" / "release" / "README.md").read_text()
    )
    real.start_site("ward", faulty=True)
    real.wait(lambda: "ward" in real.online(), "the site to be back")
    real.complete_run("away", "--resume")
    assert real.refusals("away") == {}
    assert_survived(real, "away", tmp_path / "simulated")


def test_a_serverapp_that_is_killed_while_it_averages_resumes(real, tmp_path):
    real.start_run("killed-serverapp")
    event = real.wait_for_event("killed-serverapp", "reply", count=len(SITES), round=2)
    os.kill(event["process"], signal.SIGKILL)
    assert real.end_of_run() == 1
    assert "continue with --resume" in real.log("run")
    booked = real.lines("killed-serverapp", "history")
    real.complete_run("killed-serverapp", "--resume")
    assert real.lines("killed-serverapp", "history")[: len(booked)] == booked
    assert_survived(real, "killed-serverapp", tmp_path / "simulated")


def test_a_stopped_run_resumes_from_the_checkpoint_before_a_damaged_one(real, tmp_path):
    real.misbehave("clinic", "hold 3")
    real.start_run("damaged")
    real.wait_for_event("damaged", "round", round=3)
    second = real.run("beside")
    assert second.returncode == 1
    assert "is running" in second.stderr, "two runs at once only delay each other"
    assert "is stopped" in real.mdmt("server", "stop", "kits/server").stdout
    assert real.end_of_run() == 1
    real.behave("clinic")
    booked = real.lines("damaged", "history")
    newest = max((real.folder / "damaged" / "checkpoints").glob("round-*.safetensors"))
    assert newest.name == "round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-7])
    said = " ".join(real.complete_run("damaged", "--resume").split())
    assert "round-00002.safetensors: cannot be read" in said
    assert "the one before is used" in said
    assert "resumed after round 1" in said
    assert real.lines("damaged", "history")[: len(booked)] == booked
    assert_survived(real, "damaged", tmp_path / "simulated")


def test_a_full_disk_at_a_site_costs_it_the_round(real, tmp_path):
    def train_on_a_full_disk():
        with full_disk(real.state("ward") / "test"):
            real.behave("ward")
            real.wait_for_event("full-disk", "reply", round=2, site="ward")

    run_while_both_hold(real, "full-disk", train_on_a_full_disk)
    assert set(real.refusals("full-disk")) == {("ward", 2)}
    assert_survived(real, "full-disk", tmp_path / "simulated", ("ward", 2))


def test_what_cannot_be_audited_is_not_sent(real, tmp_path):
    def train_on_a_read_only_disk():
        before = real.log("ward").count("nothing was sent")
        with read_only_disk(real.state("ward")):
            real.behave("ward")
            real.wait(lambda: real.log("ward").count("nothing was sent") > before, "the refusal")

    # Flower gives up a task after a minute; then the server sends the order again.
    real.write_config(training={"round_timeout": 120})
    run_while_both_hold(real, "read-only", train_on_a_read_only_disk)
    assert real.refusals("read-only") == {}
    assert_survived(real, "read-only", tmp_path / "simulated")
    assert "intact" in real.mdmt("site", "audit", real.site_kit("ward")).stdout


def run_while_both_hold(real: RealFederation, out: str, fault: Callable[[], None]) -> None:
    """A run in whose second round ward meets a fault, and clinic waits for it."""
    real.misbehave("ward", "hold 2")
    real.misbehave("clinic", "hold 2")
    real.start_run(out)
    real.wait_for_event(out, "reply", round=2, site="hospital")
    fault()
    real.behave("clinic")
    assert real.end_of_run() == 0, real.log("run")


def test_a_site_that_starts_late_is_admitted_and_trains(real, tmp_path):
    real.stop("ward")
    real.write_config(aggregation={"join_timeout": 3})
    real.misbehave("clinic", "hold 1")
    real.misbehave("hospital", "hold 2")
    real.start_run("late")
    real.wait_for_event("late", "round", round=1)
    asked = real.log("ward").count("query answered")
    real.start_site("ward", faulty=True)
    real.wait(lambda: "ward" in real.online(), "the late site")
    real.behave("clinic")
    real.wait(lambda: real.log("ward").count("query answered") > asked, "its card")
    real.behave("hospital")
    assert real.end_of_run() == 0, real.log("run")
    joined = [e["site"] for e in real.lines("late", "events") if e["event"] == "joined"]
    assert joined == ["clinic", "hospital", "ward"]
    assert set(read_json(real.folder / "late" / "sites.json")["sites"]) == set(SITES)
    assert real.refusals("late") == {}
    assert_survived(real, "late", tmp_path / "simulated", ("ward", 1), ("ward", 2))
