"""A run that was killed goes on: nothing that was booked is lost, and the result is the same."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file

from client.site import Site
from mdmt.algorithms import FedAvg
from mdmt.cli.show import run_tables
from mdmt.config import save_config
from mdmt.errors import BadInput, IncompleteError, RunError
from mdmt.report.caveats import run_caveats
from mdmt.results.runs import read_run
from server.going_back import go_back
from server.run import RunDirectory, find_run
from simulation.simulate import simulate

TRAINING = {"rounds": 3, "local_steps": 1, "batch_size": 4, "scheduler": "plateau"}


class Killed(BaseException):
    """As sudden as SIGKILL: nothing after it runs but `finally`."""


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def comparable(out):
    """What a run leaves, without its clock and its id."""
    history = lines(out / "history.jsonl")
    for line in history:
        line["seconds"] = 0
        for facts in line["sites"].values():
            facts.pop("seconds", None)
            facts.pop("bytes_up", None)  # the seconds are told as text
    newest = max((out / "checkpoints").glob("round-*.safetensors"))
    arrays = {name: array.tobytes() for name, array in load_file(newest).items()}
    return history, arrays, json.loads((out / "metrics.json").read_text())


@pytest.fixture
def config(make_config, two_sites):
    return make_config(sites=two_sites, training=TRAINING, references=["local"])


def kill_at(monkeypatch, moment):
    """Let the server die when it is about to tell its event number `moment`."""
    told = []
    original = RunDirectory.event

    def event(self, kind, **facts):
        told.append(kind)
        if len(told) > moment:
            raise Killed
        original(self, kind, **facts)

    monkeypatch.setattr(RunDirectory, "event", event)
    return told


def run(config, out, **options):
    out.mkdir(exist_ok=True)
    simulate(config, out, "inprocess", **options)
    return out


def assert_survives_kills(config, tmp_path, monkeypatch, first, step):
    """Killed at every `step`-th event and resumed, a run ends as if nothing had been."""
    undisturbed = comparable(run(config, tmp_path / "undisturbed"))
    moments = range(first, len(lines(tmp_path / "undisturbed" / "events.jsonl")), step)
    for moment in moments:
        out = tmp_path / f"killed-{moment}"
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            with pytest.raises(Killed):
                run(config, out)
        run(config, out, resume=True)
        assert comparable(out) == undisturbed, f"killed at event {moment}"
    assert len(moments) >= 4


@pytest.fixture
def undisturbed(config, tmp_path):
    return comparable(run(config, tmp_path / "undisturbed"))


@pytest.mark.slow
def test_wherever_it_is_killed_a_resumed_run_ends_as_an_undisturbed_one(
    config, tmp_path, monkeypatch
):
    # Before the fourth event there is no checkpoint yet.
    assert_survives_kills(config, tmp_path, monkeypatch, first=4, step=3)


def test_a_kill_between_a_rounds_checkpoint_and_its_booking_loses_nothing(
    config, tmp_path, undisturbed, monkeypatch
):
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "history", lambda self, line: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(config, out)
    run(config, out, resume=True)
    assert comparable(out) == undisturbed


def test_a_final_test_without_a_site_is_incomplete_and_resume_asks_what_is_missing(
    config, tmp_path, undisturbed, monkeypatch
):
    asked, original = [], Site.evaluate

    def evaluate(self, order, blob):
        asked.append((self.config.name, order.round))
        if self.config.name == "clinic" and not (out / "metrics.json").exists():
            raise ValueError("the disk is unplugged")
        return original(self, order, blob)

    out = tmp_path / "incomplete"
    monkeypatch.setattr(Site, "evaluate", evaluate)
    with pytest.raises(IncompleteError, match="start the site, then continue with --resume"):
        run(config, out)
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["missing"]["last"]) == set(metrics["missing"]["local"]) == {"clinic"}
    assert set(metrics["checkpoints"]["last"]["sites"]) == {"hospital"}
    assert lines(out / "events.jsonl")[-1]["event"] == "incomplete"
    (row,) = re.findall(r"^\| clinic .*", (out / "release/README.md").read_text(), re.MULTILINE)
    images, metric, _local, last, _best = row.strip("| ").split(" | ")[3:]
    assert (images, metric, last) == ("-", "mae", "missing: the site was not tested")
    shown = [str(part) for part in run_tables(out)]
    assert any("incomplete: results are missing: clinic (ValueError" in line for line in shown)
    caveats = run_caveats(read_run(out))
    assert "Results of clinic are missing; --resume completes them." in caveats
    assert find_run(out, config) == out
    asked.clear()
    run(config, out, resume=True)
    assert {site for site, _ in asked} == {"clinic"}
    assert comparable(out) == undisturbed
    assert "missing" not in (out / "release/README.md").read_text()
    with pytest.raises(BadInput, match="this run is done"):
        find_run(out, config)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_the_server_optimiser_goes_on_from_its_state(
    make_config, two_sites, tmp_path, monkeypatch, strategy
):
    training = TRAINING | {"scheduler": {"name": "step", "rounds": 1}}
    config = make_config(
        sites=two_sites, training=training, algorithm=strategy, aggregation={"fraction": 0.5}
    )
    whole = comparable(run(config, tmp_path / "whole"))
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(3))
        with pytest.raises(Killed):
            run(config, out)
    run(config, out, resume=True)
    assert comparable(out) == whole


def stop_in_round(number):
    original = RunDirectory.event

    def event(self, kind, **facts):
        if kind == "reply" and facts["round"] == number:
            raise Killed
        original(self, kind, **facts)

    return event


@pytest.fixture
def killed(config, tmp_path, monkeypatch):
    """A run killed while the sites trained its third round."""
    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(3))
        with pytest.raises(Killed):
            run(config, out)
    return out


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(config, killed, undisturbed):
    newest = max((killed / "checkpoints").glob("round-*.safetensors"))
    assert newest.name == "round-00002.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    run(config, killed, resume=True)
    told = [line for line in lines(killed / "events.jsonl") if line["event"] == "notice"]
    assert [line["round"] for line in told] == [2]
    assert "the one before is used" in told[0]["message"]
    assert comparable(killed) == undisturbed


def test_a_checkpoint_that_was_not_finished_costs_one_round_more(config, killed, undisturbed):
    """It is written while the sites train the next round, which they have done here."""
    (killed / "checkpoints" / "round-00002.safetensors").unlink()
    run(config, killed, resume=True)
    assert comparable(killed) == undisturbed


def test_without_a_sound_checkpoint_nothing_is_resumed(config, killed):
    for file in (killed / "checkpoints").iterdir():
        file.write_bytes(b"")
    with pytest.raises(RunError, match="no intact checkpoint"):
        run(config, killed, resume=True)


def test_a_torn_history_line_is_dropped(config, killed, undisturbed):
    with (killed / "history.jsonl").open("a") as stream:
        stream.write('{"round": 2, "si')
    run(config, killed, resume=True)
    assert comparable(killed) == undisturbed


def test_a_head_of_another_federation_is_refused_not_used(config, killed):
    """The run id leads to the right folder; what lies in it says whose it is."""
    (folder,) = (killed / "sites" / "clinic" / "test").iterdir()
    (folder / "federated" / "round-00002.safetensors").write_bytes(
        (folder / "federated" / "round-00001.safetensors").read_bytes()
    )
    run(config, killed, resume=True)
    line = next(line for line in lines(killed / "history.jsonl") if line["round"] == 3)
    assert line["refusals"] == {"clinic": "StateError at the site; its own log says more"}
    log = (killed / "sites" / "clinic" / "site.log").read_text()
    assert "saved for round 1, not 2" in log


def test_only_an_unfinished_run_of_this_configuration_is_resumed(config, killed, tmp_path):
    assert find_run(killed, config) == killed
    with pytest.raises(BadInput, match="another configuration"):
        find_run(killed, config.model_copy(update={"seed": 1}))
    with pytest.raises(BadInput, match="no run to resume"):
        find_run(tmp_path / "nowhere", config)
    run(config, killed, resume=True)
    with pytest.raises(BadInput, match="this run is done"):
        find_run(killed, config)


def test_the_newest_run_is_resumed_unless_told(config, tmp_path):
    for name in ("test", "test-2", "test-10", "test-other"):
        folder = tmp_path / name
        folder.mkdir()
        save_config(config, folder / "federation.yaml")
    assert find_run(None, config, root=tmp_path).name == "test-10"


def test_a_run_keeps_the_checkpoints_it_may_need_and_no_others(config, tmp_path):
    out = run(config, tmp_path / "run")
    saved = {int(file.stem[-5:]) for file in (out / "checkpoints").iterdir()}
    best = {
        facts["round"]
        for facts in json.loads((out / "metrics.json").read_text())["checkpoints"].values()
    }
    assert {2, 3} | best >= saved
    assert {2, 3} <= saved


def test_a_second_run_never_writes_over_the_first(config, tmp_path):
    """As two `flwr run` with the same `out` would."""
    run(config, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file()}
    with pytest.raises(BadInput, match="has a run already"):
        run(config, tmp_path / "out")
    assert {file: file.read_bytes() for file in before} == before


def test_a_run_goes_back_to_a_kept_round_and_ends_as_an_undisturbed_one(
    config, killed, undisturbed
):
    go_back(killed, config, 1)
    assert [file.name for file in (killed / "checkpoints").iterdir()] == ["round-00001.safetensors"]
    run(config, killed, resume=True)
    events = lines(killed / "events.jsonl")
    assert [e["round"] for e in events if e["event"] == "resumed"] == [1]
    assert comparable(killed) == undisturbed


def test_a_round_that_is_not_kept_or_damaged_is_refused_with_those_that_are(config, killed):
    with pytest.raises(BadInput, match=r"does not keep this round; kept are the rounds 1, 2$"):
        go_back(killed, config, 0)
    (killed / "checkpoints" / "round-00001.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match=r"--from-round 1: .*cannot be read"):
        go_back(killed, config, 1)
    assert len(list((killed / "checkpoints").iterdir())) == 2


def test_a_best_round_that_is_not_kept_any_more_is_forgotten_and_it_is_said(config, killed):
    """Round 2 was kept as the best one; what was the best in its place before is gone."""
    files = RunDirectory(killed, config).checkpoints
    saved = files.load(2)
    best = {"prognosis": [0, 0.9, ["hospital"]], "severity": [1, 0.1, ["clinic"]]}
    facts = saved.facts | {"selection": saved.facts["selection"] | {"best": best}}
    files.save(2, saved.tensors, facts)
    run(config, killed, resume=True)
    told = [e["message"] for e in lines(killed / "events.jsonl") if e["event"] == "notice"]
    assert told == [
        "round 0, the best of prognosis until then, is not kept; the comparison restarts"
    ]
    assert json.loads((killed / "metrics.json").read_text())["checkpoints"]["best:severity"]


def test_a_model_that_became_bad_is_left_by_going_back(
    make_config, two_sites, tmp_path, monkeypatch
):
    """Without a bound, an update of 9e5 gets in; then no site can train, and resuming fails too."""
    options = {"training": TRAINING | {"rounds": 4}, "aggregation": {"norm_bound": None}}
    config = make_config(sites=two_sites, **options)
    whole = comparable(run(config, tmp_path / "whole"))
    original = FedAvg.combine

    def poisoned(self, state, mean):
        name = next(iter(mean))
        return original(self, state, mean | {name: np.full_like(mean[name], 1e38)})

    out = tmp_path / "poisoned"
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", stop_in_round(3))
        with pytest.raises(Killed):
            run(config, out)
    with monkeypatch.context() as patch:
        patch.setattr(FedAvg, "combine", poisoned)
        with pytest.raises(RunError, match="round 4: 0 updates could be used"):
            run(config, out, resume=True)
    with pytest.raises(RunError, match="round 4: 0 updates could be used"):
        run(config, out, resume=True)
    go_back(out, config, 2)
    run(config, out, resume=True)
    assert comparable(out) == whole
