"""Sites in several worker processes: the same bits as in one, and a worker may die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from builders import federation_dict
from flwr.app import ConfigRecord, Message, RecordDict
from safetensors.numpy import load_file

from client.site import Site
from mdmt.deployment.processes import is_running
from mdmt.errors import RunError
from server.messaging import is_lost
from server.run import RunDirectory
from simulation.engine import WorkerGrid, task_identity
from simulation.simulate import simulate
from simulation.workers import count_workers, start_workers

TRAINING = {"rounds": 3, "local_steps": 1, "batch_size": 4}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def outcome(out):
    newest = max((out / "checkpoints").glob("round-*.safetensors"))
    arrays = {name: array.tobytes() for name, array in load_file(newest).items()}
    return arrays, json.loads((out / "metrics.json").read_text())


def run(config, out, workers, **options):
    out.mkdir(exist_ok=True)
    with start_workers(config, workers) as started:
        pids = [worker.pid for worker in started]
        simulate(config, out, "inprocess", started, **options)
    assert not any(is_running(pid) for pid in pids)
    return out


def who_answered(out, site):
    log = (out / "sites" / site / "site.log").read_text()
    return {int(line.split()[-1]) for line in log.splitlines() if "by process" in line}


@pytest.fixture
def config(make_config, two_sites):
    sites = two_sites | {"ward": two_sites["hospital"]}
    augmentation = {"elastic": [2, 4]}
    return make_config(
        sites=sites, training=TRAINING, references=["local"], augmentation=augmentation
    )


def test_any_number_of_workers_gives_the_bits_of_one(config, tmp_path):
    alone = run(config, tmp_path / "1", 1)
    assert who_answered(alone, "clinic") == {os.getpid()}
    for number in (2, 9):
        out = run(config, tmp_path / str(number), number)
        assert outcome(out) == outcome(alone)
        workers = [who_answered(out, site) for site in config.sites]
        # clinic, hospital, ward: the third of three sites shares the first of two workers.
        assert all(len(pids) == 1 for pids in workers)
        assert len(set.union(*workers)) == min(number, 3)
        assert os.getpid() not in set.union(*workers)


class _Deaf:
    """A worker that takes a message and never answers."""

    def __init__(self):
        self.connection, self.other_end = os.pipe()
        self.taken = []

    def send(self, message, context):
        self.taken.append(message.metadata.dst_node_id)


def test_a_worker_that_is_killed_costs_no_round(config, tmp_path, monkeypatch):
    """A fork has what is patched here; the worker that is spawned after it has not."""
    undisturbed, original = run(config, tmp_path / "undisturbed", 2), Site.train

    def train(self, order, arrays):
        if (self.config.name, order.round) == ("hospital", 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, order, arrays)

    monkeypatch.setattr(Site, "train", train)
    out = run(config, tmp_path / "run", 2)
    assert [line["refusals"] for line in lines(out / "history.jsonl")] == [{}, {}, {}, {}]
    assert len(who_answered(out, "hospital")) == 2
    assert outcome(out) == outcome(undisturbed)


DEATH = "the training process ended (signal SIGKILL)"


class _Mortal(_Deaf):
    """A worker that dies whenever it gets a message."""

    def receive(self):
        os.read(self.connection, 1)
        raise RunError(DEATH)

    def send(self, message, context):
        super().send(message, context)
        os.write(self.other_end, b".")


def test_a_message_that_kills_its_worker_is_repeated_once():
    worker = _Mortal()
    with task_identity():
        grid = WorkerGrid([worker], {}, 2)
        content = RecordDict({"config": ConfigRecord({})})
        first, second = (Message(content, node, "train", ttl=60) for node in grid.get_node_ids())
        ids = list(grid.push_messages([first, second]))
        replies = [reply for _ in range(4) for reply in grid.pull_messages(ids)]
    assert worker.taken == [2, 2, 3, 3]
    assert [reply.error.code for reply in replies] == [2, 2], (
        "an answer: the server repeats nothing"
    )
    assert not any(is_lost(reply) for reply in replies)


def test_an_error_at_a_site_costs_it_one_round_and_no_worker(config, tmp_path, monkeypatch):
    original = Site.train

    def train(self, order, arrays):
        if (self.config.name, order.round) == ("ward", 1):
            raise ValueError
        return original(self, order, arrays)

    monkeypatch.setattr(Site, "train", train)
    out = run(config, tmp_path / "run", 2)
    history = lines(out / "history.jsonl")
    reason = "ValueError at the site; its own log says more"
    assert history[1]["refusals"] == {"ward": reason}
    assert history[2]["refusals"] == {}
    assert len(who_answered(out, "ward")) == 1


def test_a_run_is_resumed_with_another_number_of_workers(config, tmp_path, monkeypatch):
    whole = run(config, tmp_path / "whole", 1)
    original = RunDirectory.event

    def event(self, kind, **facts):
        if kind == "reply" and facts["round"] == 3:
            raise KeyboardInterrupt
        original(self, kind, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "event", event)
        with pytest.raises(KeyboardInterrupt):
            run(config, tmp_path / "killed", 3)
    assert outcome(run(config, tmp_path / "killed", 2, resume=True)) == outcome(whole)


def test_nobody_waits_for_a_site_beyond_its_time():
    worker = _Deaf()
    with task_identity():
        grid = WorkerGrid([worker], {}, 2)
        content = RecordDict({"config": ConfigRecord({})})
        first, second = (Message(content, node, "train", ttl=0.2) for node in grid.get_node_ids())
        ids = list(grid.push_messages([first, second]))
        started = time.monotonic()
        assert list(grid.pull_messages(ids)) == []
        assert 0.1 < time.monotonic() - started < 60
        assert worker.taken == [first.metadata.dst_node_id]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_the_command(end, two_sites, tmp_path):
    file, out = tmp_path / "federation.yaml", tmp_path / "run"
    training = {"rounds": 10_000, "local_steps": 1, "batch_size": 2}
    file.write_text(yaml.safe_dump(federation_dict(sites=two_sites, training=training)))
    command = [sys.executable, "-m", "mdmt", "simulate", str(file), "--out", str(out)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # A command in the background of a script or a CI ignores SIGINT, and so would its children.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(
        [*command, "--workers", "2"],
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    signal.signal(signal.SIGINT, before)
    try:
        history = out / "history.jsonl"
        _until(lambda: history.exists() and len(lines(history)) > 1)
        workers = set.union(*(who_answered(out, site) for site in two_sites))
        assert len(workers) == 2
        process.send_signal(end)
        assert process.wait(60) == (130 if end is signal.SIGINT else -signal.SIGKILL)
        _until(lambda: not any(is_running(pid) for pid in workers))
    finally:
        process.kill()
        process.wait()


def _until(done, seconds=120):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("threads", "processors", "expected"), [(1, 2, 2), (1, 8, 3), (4, 8, 2), (16, 8, 1)]
)
def test_there_are_as_many_workers_as_processors_have_room_for(
    config, monkeypatch, threads, processors, expected
):
    monkeypatch.setattr("simulation.workers._processors", lambda: processors)
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 20)  # 1 TiB of memory
    training = config.training.model_copy(update={"threads": threads})
    assert count_workers(config.model_copy(update={"training": training})) == expected


def test_on_a_small_machine_memory_decides(config, monkeypatch):
    monkeypatch.setattr("simulation.workers._processors", lambda: 64)
    pages = {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 4096}  # 4 GiB
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert count_workers(config) == 2


def test_a_process_with_threads_is_not_forked(config):
    """A thread may hold a lock, which nobody would release in the child."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with start_workers(config, 2) as workers:
            assert [worker._process._start_method for worker in workers] == ["spawn", "spawn"]
    finally:
        stop.set()
        thread.join()
