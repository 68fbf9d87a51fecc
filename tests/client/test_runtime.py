"""What a SuperNode is told of a message that it gave to be answered."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from flwr.app import Context, RecordDict
from flwr.common.serde import context_to_proto

from client import runtime
from client.runtime import ObjectPullError, Runtime


@pytest.fixture
def told(monkeypatch):
    """How tasks ended, as the SuperNode was told; it hands over a message that is not looked at."""
    ended: list[str] = []
    context = context_to_proto(Context(1, 2, {}, RecordDict(), {}))
    supernode = SimpleNamespace(
        PullTaskInput=lambda _: SimpleNamespace(
            context=context, fab=SimpleNamespace(content=b"bundle")
        ),
        SendTaskHeartbeat=lambda _: SimpleNamespace(success=True),
        close=lambda: None,
    )
    monkeypatch.setattr(
        runtime.RuntimeHttpClient, "from_server_address", lambda *_, **__: supernode
    )
    monkeypatch.setattr(runtime, "_pull_message", lambda *_: "message")
    monkeypatch.setattr(runtime, "push_message", lambda *_: None)
    monkeypatch.setattr(runtime, "push_task_output", lambda *a: ended.append(a[2]))
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
