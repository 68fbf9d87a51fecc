"""The Flower ClientApp of a site: it answers queries and runs orders."""

from __future__ import annotations

import logging
import os
import shlex
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    RecordDict,
)
from flwr.clientapp import ClientApp

from client.admission import Order, admit
from client.policy import check_upload
from client.site import Site
from client.stored_replies import Reply, open_replies
from mdmt import __version__
from mdmt.blob import BLOB
from mdmt.config import FederationConfig, SiteConfig, find_config, load_federation, load_site
from mdmt.errors import MDMTError, PolicyError
from mdmt.files import limit_log
from mdmt.frozen import FROZEN
from mdmt.messages import (
    LONGEST_ORDER,
    PROTOCOL,
    EvaluateOrder,
    KeyOrder,
    Query,
    ReferenceOrder,
    TrainOrder,
    order_hash,
    protocol_of,
)

_SITE_FAILED = 2
"""Flower's error code for a client that raised an error."""

log = logging.getLogger(__name__)
app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer a registration query with the site card."""
    return _answer(message, context, Query, Site.card)


@app.query("keys")
def keys(message: Message, context: Context) -> Message:
    """Sign the key of a run with secure aggregation."""
    return _answer(message, context, KeyOrder, Site.key)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the backbone for one round."""
    return _answer(message, context, TrainOrder, Site.train)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate a backbone on validation and test."""
    return _answer(message, context, EvaluateOrder, Site.evaluate)


@app.evaluate("reference")
def reference(message: Message, context: Context) -> Message:
    """Compute the references: the site trains alone and sends only metrics."""
    return _answer(message, context, ReferenceOrder, Site.reference)


def _answer(
    message: Message, context: Context, order: type[Order], run: Callable[..., Any]
) -> Message:
    """Let the site run an order. For an error, send only its type, not its text.

    The text of a `PolicyError` is sent, because it is written for the server.
    """
    site: Site | None = None
    try:
        site = open_site(context)
        if site is None:
            return Message(RecordDict({"report": ConfigRecord({"json": "null"})}), reply_to=message)
        started = time.monotonic()
        reply = _reply(site, message, order, run)
        seconds = time.monotonic() - started
        kind = message.metadata.message_type
        _log_at_site(site, f"{kind} answered in {seconds:.1f} s by process {os.getpid()}")
        return Message(reply, reply_to=message)
    except Exception as error:
        story = _story(error) if isinstance(error, MDMTError) else traceback.format_exc()
        _log_at_site(site, f"error: {story.rstrip()}")
        reason = f"{type(error).__name__} at the site; its own log says more"
        if site is not None and isinstance(error, PolicyError):
            # During registration the server knows nodes, but not sites.
            asked = message.metadata.message_type == MessageType.QUERY
            reason = f"site {site.config.name}: {error}" if asked else str(error)
        return Message(Error(_SITE_FAILED, reason), reply_to=message)


def _reply(site: Site, message: Message, kind: type[Order], run: Callable[..., Any]) -> RecordDict:
    """Read an order, run it unless its reply is stored, and return the reply.

    Only a deployed site stores replies: a simulation does not lose one.
    """
    order, blobs = _read_order(message.content, kind)
    site = replace(site, frozen=_frozen(message.content))
    if site.kit is None:
        return _content(_run(site, order, blobs, run))
    what = message.metadata.message_type
    site = replace(site, asked=order_hash(what, order.model_dump_json(), *blobs))
    admit(site.config, order)
    replies = open_replies(site.config)
    if (stored := replies.find(what, site.asked)) is not None:
        _log_at_site(site, f"{what} was answered before: the stored reply is sent again")
        return _content(stored)
    reply = _run(site, order, blobs, run)
    replies.keep(what, site.asked, reply)
    return _content(reply)


def _read_order(content: RecordDict, kind: type[Order]) -> tuple[Order, list[bytes]]:
    """Return the order and its arrays."""
    text = str(content.config_records["config"]["order"])
    if len(text) > LONGEST_ORDER:
        raise PolicyError(f"the order has {len(text)} characters, at most {LONGEST_ORDER} are read")
    if kind is Query and (protocol := protocol_of(text)) != PROTOCOL:
        raise PolicyError(
            f"speaks protocol {PROTOCOL} (mdmt {__version__}) and the server protocol {protocol}:"
            " install the version of the server"
        )
    blobs = [content.array_records["arrays"][BLOB].data] if kind not in (Query, KeyOrder) else []
    return kind.model_validate_json(text), blobs


def _frozen(content: RecordDict) -> bytes:
    """Return the frozen arrays that came with an order; empty without."""
    arrays = content.array_records.get("arrays")
    return arrays[FROZEN].data if arrays is not None and FROZEN in arrays else b""


def _run(site: Site, order: Order, blobs: list[bytes], run: Callable[..., Any]) -> Reply:
    """Run an order, and check the size of the reply."""
    result = run(site, order, *blobs)
    report, *updates = result if isinstance(result, tuple) else (result,)
    reply = Reply(report.model_dump_json(), *updates)
    check_upload(site.config.policy, reply.report, reply.blob or b"")
    return reply


def _content(reply: Reply) -> RecordDict:
    """Write a reply as the content of a message."""
    content = RecordDict({"report": ConfigRecord({"json": reply.report})})
    if reply.blob is not None:
        array = Array("uint8", (len(reply.blob),), BLOB, reply.blob)
        content["arrays"] = ArrayRecord({BLOB: array})
    return content


def _story(error: MDMTError) -> str:
    """Return the text of an error for the site's own log, with that of its cause."""
    cause = error.__cause__
    return f"{error}: {cause}" if isinstance(cause, MDMTError) else str(error)


def open_site(context: Context) -> Site | None:
    """Return the site of this process; None for a simulated node without a site.

    In a deployment the SuperNode gives the site's file (``--node-config 'site="..."'``). In a
    simulation node number i is the i-th site of the federation, sorted by name.
    """
    file = context.node_config.get("site")
    if file is not None:
        path = Path(str(file))
        return Site(_site(path, path.stat().st_mtime_ns), path.parent)
    path = find_config(str(context.run_config["federation"]))
    overrides = str(context.run_config.get("overrides", ""))
    sites = _federation(path, path.stat().st_mtime_ns, overrides).sites
    names, number = sorted(sites), int(context.node_config["partition-id"])
    return Site(sites[names[number]]) if number < len(names) else None


@lru_cache(maxsize=1)
def _site(path: Path, changed: int) -> SiteConfig:
    """Return the configuration of a deployed site: what its policy does not list is refused."""
    site = load_site(path)
    strict = {
        "recipes": site.policy.recipes or (),
        "plugins": site.policy.plugins or (),
        "max_threads": site.policy.max_threads or os.cpu_count(),
    }
    return site.model_copy(update={"policy": site.policy.model_copy(update=strict)})


@lru_cache(maxsize=1)
def _federation(path: Path, changed: int, overrides: str) -> FederationConfig:
    """Return the configuration of a federation whose file last `changed` at this time."""
    return load_federation(path, shlex.split(overrides))


def _log_at_site(site: Site | None, story: str) -> None:
    """Write a line to the log of the site. Never raise an error."""
    if site is None:
        log.error("this site cannot be opened: %s", story)
        return
    try:
        site.log_file.parent.mkdir(parents=True, exist_ok=True)
        limit_log(site.log_file)
        with site.log_file.open("a", encoding="utf-8") as stream:
            stream.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z {story}\n")
    except OSError as error:  # a full or read-only disk
        log.error("%s: the site's log cannot be written: %s", site.config.name, error.strerror)
