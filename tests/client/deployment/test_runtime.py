"""What a SuperNode is told of a message that it gave to be answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Context, RecordDict

from client import flower as runtime
from client.flower import ObjectPullError, Runtime
from mdmt.deployment.processes import free_port


@pytest.fixture
def told(monkeypatch):
    """How tasks ended, as the SuperNode was told; nobody looks at the message that it gives."""
    ended: list[bool] = []
    client = SimpleNamespace(
        SendTaskHeartbeat=lambda _: SimpleNamespace(success=True),
        PullTaskInput=lambda _: SimpleNamespace(context=None, fab=SimpleNamespace(content=b"")),
        close=lambda: None,
    )
    context = Context(1, 2, {}, RecordDict(), {})
    monkeypatch.setattr(runtime, "_connect", lambda *_: client)
    monkeypatch.setattr(runtime, "context_from_proto", lambda _: context)
    monkeypatch.setattr(runtime, "_pull_message", lambda *_: "message")
    pushed = "flwr.supernode.runtime.run_clientapp"
    monkeypatch.setattr(f"{pushed}.push_message", lambda *_: None)
    monkeypatch.setattr(f"{pushed}.push_task_output", lambda *task: ended.append(task[2]))
    return ended


@pytest.fixture
def supernode(told):
    return Runtime("127.0.0.1:1", b"secret")


def test_an_answered_message_is_completed(supernode, told):
    with supernode.assignment("token") as (_, replies):
        replies.append("reply")
    assert told == ["completed"]


def test_a_message_that_may_not_be_answered_is_not_reported_as_over(supernode, told):
    """The SuperNode would wait for its reply for ever, and take no other message."""
    with pytest.raises(OSError, match="read-only"), supernode.assignment("token"):
        raise OSError("read-only")
    assert told == []


def test_half_a_message_has_failed(supernode, told, monkeypatch):
    def pull(*_):
        raise ObjectPullError("", "half of it is gone")

    monkeypatch.setattr(runtime, "_pull_message", pull)
    with pytest.raises(ObjectPullError), supernode.assignment("token"):
        pass
    assert told == ["failed"]


@contextmanager
def supernode_that_says(*codes: int) -> Iterator[tuple[Runtime, list[str]]]:
    """A SuperNode that answers with these codes in turn, and with the last one from then on."""
    left, asked = list(codes), []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(left.pop(0) if len(left) > 1 else left[0])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Runtime(f"127.0.0.1:{server.server_port}", b"secret"), asked
        server.shutdown()


def test_a_token_that_has_run_out_costs_the_message_and_not_the_site():
    with (
        supernode_that_says(401) as (supernode, asked),
        pytest.raises(httpx.HTTPStatusError),
        supernode.assignment("token"),
    ):
        pass
    assert any(path.endswith("pull-task-input") for path in asked)


def test_a_supernode_that_is_gone_is_not_asked_for_ever(monkeypatch):
    monkeypatch.setattr("flwr.supercore.retry.exponential", lambda **_: iter([0.0] * 100))
    gone = Runtime(f"127.0.0.1:{free_port()}", b"secret")
    with pytest.raises(httpx.ConnectError), gone.assignment("token"):
        pass
