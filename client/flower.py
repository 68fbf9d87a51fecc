"""Who sends the messages that are made in this process: Flower keeps it in a private class."""

from __future__ import annotations

from flwr.app import Context
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["identify"]


def identify(context: Context) -> None:
    """Make this process the author of messages that the node of `context` sends."""
    TaskIdentity.task_id, TaskIdentity.run_id = 1, context.run_id
    TaskIdentity.node_id = context.node_id
