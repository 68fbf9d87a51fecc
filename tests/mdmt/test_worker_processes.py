"""Child processes that answer requests: every job gets a reply, whatever happens to a process."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection

from mdmt.deployment.processes import is_running
from mdmt.errors import RunError
from mdmt.workers import WorkerProcess, map_jobs, running


def ready() -> None:
    """What a process does before its first request: nothing."""


def square(connection: Connection) -> None:
    """Answer a number with its square and the process; die at 13."""
    number = connection.recv()
    if number == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    connection.send((number**2, os.getpid()))


def test_every_job_has_its_reply_and_processes_share_the_work() -> None:
    with running([WorkerProcess(square, ready) for _ in range(2)]) as processes:
        replies = dict(map_jobs(processes, range(6)))
    assert {job: reply[0] for job, reply in replies.items()} == {n: n * n for n in range(6)}
    pids = {reply[1] for reply in replies.values()}
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)


def test_a_process_that_dies_costs_its_job_and_another_one_goes_on() -> None:
    with running([WorkerProcess(square, ready)]) as processes:
        replies = dict(map_jobs(processes, [2, 13, 3]))
    assert isinstance(replies[13], RunError)
    message = "13: the training process ended (signal SIGKILL), perhaps because memory ran out"
    assert str(replies[13]) == message
    assert (replies[2][0], replies[3][0]) == (4, 9)
    assert replies[2][1] != replies[3][1]


def test_more_processes_than_jobs_do_no_harm() -> None:
    with running([WorkerProcess(square, ready) for _ in range(3)]) as processes:
        ((job, reply),) = map_jobs(processes, [5])
    assert (job, reply[0]) == (5, 25)
