"""The Flower ClientApp of a site: it answers queries and runs orders."""

from __future__ import annotations

import logging
import os
import shlex
import time
import traceback
from collections.abc import Callable
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
from pydantic import BaseModel

from client.policy import check_upload
from client.site import Site
from mdmt import __version__
from mdmt.blob import BLOB
from mdmt.config import FederationConfig, SiteConfig, find_config, load_federation, load_site
from mdmt.errors import MDMTError, PolicyError
from mdmt.files import limit_log
from mdmt.messages import (
    PROTOCOL,
    EvaluateOrder,
    Query,
    ReferenceOrder,
    TrainOrder,
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
    message: Message, context: Context, order: type[BaseModel], run: Callable[..., Any]
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
        reply = _reply(site, message.content, order, run)
        check_upload(site.config.policy, reply)
        seconds = time.monotonic() - started
        kind = message.metadata.message_type
        _log_at_site(site, f"{kind} answered in {seconds:.1f} s by process {os.getpid()}")
        return Message(reply, reply_to=message)
    except Exception as error:
        story = str(error) if isinstance(error, MDMTError) else traceback.format_exc()
        _log_at_site(site, f"error: {story.rstrip()}")
        reason = f"{type(error).__name__} at the site; its own log says more"
        if site is not None and isinstance(error, PolicyError):
            # During registration the server knows nodes, but not sites.
            asked = message.metadata.message_type == MessageType.QUERY
            reason = f"site {site.config.name}: {error}" if asked else str(error)
        return Message(Error(_SITE_FAILED, reason), reply_to=message)


def _reply(
    site: Site, content: RecordDict, kind: type[BaseModel], run: Callable[..., Any]
) -> RecordDict:
    """Read the order and its arrays, run it, and write the report and the arrays of an update."""
    text = str(content.config_records["config"]["order"])
    if kind is Query and (protocol := protocol_of(text)) != PROTOCOL:
        raise PolicyError(
            f"speaks protocol {PROTOCOL} (mdmt {__version__}) and the server protocol {protocol}:"
            " install the version of the server"
        )
    blobs = [content.array_records["arrays"][BLOB].data] if kind is not Query else []
    result = run(site, kind.model_validate_json(text), *blobs)
    report, *updates = result if isinstance(result, tuple) else (result,)
    reply = RecordDict({"report": ConfigRecord({"json": report.model_dump_json()})})
    for blob in updates:
        reply["arrays"] = ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})
    return reply


def open_site(context: Context) -> Site | None:
    """Return the site of this process; None for a simulated node without a site.

    In a deployment the SuperNode gives the site's file (``--node-config 'site="..."'``). In a
    simulation node number i is the i-th site of the federation, sorted by name.
    """
    file = context.node_config.get("site")
    if file is not None:
        path = Path(str(file))
        return Site(_site(path, path.stat().st_mtime_ns))
    path = find_config(str(context.run_config["federation"]))
    overrides = str(context.run_config.get("overrides", ""))
    sites = _federation(path, path.stat().st_mtime_ns, overrides).sites
    names, number = sorted(sites), int(context.node_config["partition-id"])
    return Site(sites[names[number]]) if number < len(names) else None


@lru_cache(maxsize=1)
def _site(path: Path, changed: int) -> SiteConfig:
    """Return the configuration of a deployed site. Its plug-ins must be listed in the policy."""
    site = load_site(path)
    policy = site.policy.model_copy(update={"plugins": site.policy.plugins or ()})
    return site.model_copy(update={"policy": policy})


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
