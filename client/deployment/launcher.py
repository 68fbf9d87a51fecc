"""What `mdmt site start` runs: Flower's SuperNode, and the worker that answers its messages.

The SuperNode runs with ``--isolation process``: it hands messages over and starts no code. Messages
are answered by the ClientApp that the hospital installed. The launcher compares the bundle that the
server sent with the policy, and nothing of the bundle ever runs.
"""

from __future__ import annotations

import json
import logging
import secrets
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import httpx
from flwr.app import Error, Message

from client.deployment.audit import add_head, open_audit_log
from client.deployment.place import Place
from client.deployment.sealing import seal_reply
from client.deployment.worker import Worker
from client.flower import Assignment, ObjectPullError, Runtime, identify
from client.policy import cap_memory, check_app
from mdmt.audit_head import without_head
from mdmt.config import SiteConfig
from mdmt.deployment.kits import SiteKit
from mdmt.deployment.processes import Service, flower_environment, free_port, only_one
from mdmt.errors import PolicyError, RunError, StateError

log = logging.getLogger(__name__)

_SITE_FAILED = 2
"""Flower's code for a client that raised."""
_PAUSE = 0.2
"""Seconds between two requests for a message."""
_RESTARTS = (1.0, *(8.0,) * 10, 60.0)
"""Seconds before a restart. If the server was not told that a killed SuperNode ended (`Place`), it
refuses the successor for a minute; later restarts are rarer."""


def serve_site(kit: SiteKit, site: SiteConfig) -> None:
    """Connect a site and answer the server's messages until interrupted.

    Parameters
    ----------
    kit : SiteKit
    site : SiteConfig
        The kit's ``site.yaml``.

    Raises
    ------
    StateError
        The site runs already.
    """
    lock = only_one(site.state_root / "site.lock", f"the site {site.name}")
    with lock, tempfile.TemporaryDirectory(prefix="mdmt-site-") as home:
        launcher = _Launcher(kit, site, Path(home))
        try:
            launcher.run()
        finally:
            launcher.stop()


class _StoppedError(Exception):
    """The site is stopped while it answers."""


class _Launcher:
    def __init__(self, kit: SiteKit, site: SiteConfig, home: Path) -> None:
        self._kit, self._site = kit, site
        self._audit = open_audit_log(kit, site)
        self._secret_file, self._secret = home / "secret", secrets.token_bytes(32)
        self._secret_file.touch(mode=0o600)
        self._secret_file.write_bytes(self._secret)
        self._runtime: Runtime | None = None
        self._place = Place(kit, site.state_root / "node.json")
        self._worker = Worker(partial(cap_memory, site.policy, site.device))
        self._training = threading.Lock()
        self._stopping = threading.Event()
        self._supernode = Service(
            "SuperNode",
            self._command,
            flower_environment(home),
            site.state_root / "supernode.log",
            _RESTARTS,
            advice=f"; if it lasts over 2 minutes, run mdmt site check {kit.folder}",
        )

    def run(self) -> None:
        """Keep both processes running and answer messages.

        Each message has a thread of its own: one may wait for the rest of a message that an ended
        run left behind, while the next run goes on. The worker takes one message at a time.
        """
        log.info("%s serves %s", self._site.name, self._kit.facts.server)
        while True:
            self._supernode.tend()
            if supernode := self._supernode.pid:
                self._place.watch(self._supernode.new_lines(), supernode)
            if self._training.acquire(blocking=False):
                self._worker.tend()  # it imports torch before the first message
                self._training.release()
            token = self._runtime.acquire() if self._runtime and self._supernode.pid else None
            if token is None:
                time.sleep(_PAUSE)
            else:
                threading.Thread(target=self._serve, args=(token,), daemon=True).start()

    def stop(self) -> None:
        """End both processes."""
        self._stopping.set()
        self._worker.stop()
        if self._supernode.stop():
            self._place.left()

    def _command(self) -> list[str]:
        """Write the command line of the next SuperNode, with a port that is free now."""
        self._place.free()
        host, port = "127.0.0.1", str(free_port())
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = Runtime(f"{host}:{port}", self._secret)
        return [
            "flower-supernode",
            *("--superlink", self._kit.facts.server),
            *("--root-certificates", str(self._kit.ca_certificate)),
            *("--auth-supernode-private-key", str(self._kit.private_key)),
            *("--isolation", "process"),
            *("--host", host, "--port", port),
            *("--superexec-auth-secret-file", str(self._secret_file)),
            *("--node-config", f"site={json.dumps(str(self._kit.site_file))}"),
        ]

    def _serve(self, token: str) -> None:
        """Answer one message."""
        assert self._runtime is not None, "it issued the token"
        started = time.monotonic()
        try:
            with self._runtime.assignment(token) as (task, replies):
                reply = self._answer(task)
                if self._stopping.is_set():
                    raise _StoppedError  # the server sends the order again when the site is back
                # A reply that cannot be recorded is not sent.
                head = self._audit.record(reply, task.message)
                add_head(reply, head)
                replies.append(seal_reply(reply, task.message))
        except _StoppedError:
            log.info("a message is not answered, because the site is stopped")
        except (StateError, OSError) as error:
            log.error("nothing was sent, because the audit log cannot be written: %s", error)
        except ValueError as error:
            log.error("nothing was sent, because the reply cannot be sealed: %s", error)
        except (httpx.HTTPError, ObjectPullError) as error:
            log.warning("a message was lost at the SuperNode: %s", type(error).__name__)
        else:
            refusal = without_head(str(reply.error.reason)) if reply.has_error() else None
            what = "answered" if refusal is None else f"refused: {refusal}"
            kind, seconds = task.message.metadata.message_type, time.monotonic() - started
            # The journal and the server keep it: whoever changes the site's files cannot change it.
            log.info("%s %s in %.1f s; audit log now ends with %s", kind, what, seconds, head)

    def _answer(self, task: Assignment) -> Message:
        """Let the worker answer a message that the policy allows, while the server waits for it."""
        deadline = time.monotonic() + task.message.metadata.ttl

        def give_up() -> str | None:
            if task.cancelled.is_set():
                return "the run was stopped"
            if self._stopping.is_set():
                return "the site was stopped"
            # A SuperNode that ended is no reason: the server sends the same order to the next one,
            # and the site then has the reply.
            return "the deadline has passed" if time.monotonic() > deadline else None

        try:
            check_app(self._site.policy, task.app)
            with self._training:
                return self._worker.answer(task.message, task.context, give_up)
        except (PolicyError, RunError) as error:
            identify(task.context)
            return Message(Error(_SITE_FAILED, str(error)), reply_to=task.message)
