"""The process that trains, when it ends by itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from client.deployment.worker import Worker
from mdmt import workers
from mdmt.errors import ConfigError, RunError


def refuse():
    """What a worker does before its first message."""
    raise ConfigError("device: cuda:7 is not there")


@pytest.fixture
def worker():
    """A worker that cannot get ready."""
    worker = Worker(refuse)
    yield worker
    worker.stop()


def wait_for_the_end_of(worker):
    deadline = time.monotonic() + 60
    while worker.pid is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert worker.pid is None


def test_one_that_keeps_ending_is_started_ever_less_eagerly(worker, caplog, capfd, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    worker.tend()
    monkeypatch.undo()
    wait_for_the_end_of(worker)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    worker.tend()
    assert worker.pid is None, "its pause has begun"
    assert "ended (exit code 1)" in caplog.text
    now += 1.1
    worker.tend()
    assert worker.pid is not None
    monkeypatch.undo()
    wait_for_the_end_of(worker)
    told = capfd.readouterr().err
    assert "Traceback" not in told
    assert told.count("error: ") == 2
    assert "error: device: cuda:7 is not there" in told


def test_one_that_was_killed_is_started_again(worker, caplog):
    worker.start()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    wait_for_the_end_of(worker)
    worker.tend()
    assert "signal SIGKILL" in caplog.text


class Mortal(Worker):
    """A worker whose process dies at its first messages, so many times."""

    def __init__(self, deaths):
        super().__init__(ready)
        self.deaths, self.sent = deaths, []

    def send(self, message, context):
        self.sent.append(message)
        if len(self.sent) <= self.deaths:
            raise RunError("the training process ended (signal SIGKILL)")
        self.start()
        self._connection, self.theirs = multiprocessing.Pipe()
        self.theirs.send("reply")

    def receive(self):
        return self._connection.recv()


@pytest.fixture
def mortal():
    made = []

    def make(deaths):
        made.append(Mortal(deaths))
        return made[-1]

    yield make
    for one in made:
        one.stop()


def test_a_killed_worker_repeats_its_order_and_says_so(mortal, caplog):
    worker = mortal(1)
    assert worker.answer("order", None, lambda: None) == "reply"
    assert worker.sent == ["order", "order"]
    assert "signal SIGKILL); a new process repeats the same order" in caplog.text


def test_an_order_that_kills_its_worker_is_not_repeated_for_ever(mortal):
    worker = mortal(9)
    with pytest.raises(RunError, match="signal SIGKILL"):
        worker.answer("order", None, lambda: None)
    assert worker.sent == ["order", "order"]


def test_what_nobody_waits_for_is_not_repeated(mortal):
    worker = mortal(1)
    with pytest.raises(RunError, match="SIGKILL"):
        worker.answer("order", None, lambda: "the run was stopped")
    assert worker.sent == ["order"]


def ready():
    """What a worker does before its first message: nothing."""


def test_one_that_waits_gives_back_the_memory_that_it_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_IDLE", 0.05)
    monkeypatch.setattr(workers, "return_memory", (tmp_path / "returned").touch)
    idle = Worker(ready, "fork")  # it has what is patched here
    idle.start()
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "returned").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (tmp_path / "returned").exists()
        assert idle.pid is not None, "it goes on waiting"
    finally:
        idle.stop()
