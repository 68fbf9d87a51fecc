"""The place of a site at the server, which admits one SuperNode per key.

A SuperNode that ends gives its place back. One that was killed cannot: the server then considers it
connected, and refuses its successor, until two heartbeats are missing, which is a minute. So the
launcher gives the place back in its stead. It does this only for a SuperNode of its own that was
connected and has ended. A second copy of the kit, on any machine, is refused as before.
"""

from __future__ import annotations

import json
import logging
import platform
import re
import time
from pathlib import Path

import httpx

from client.fleet import deactivate_node
from mdmt.deployment.keys import read_key
from mdmt.deployment.kits import SiteKit
from mdmt.deployment.processes import is_running
from mdmt.files import write_json

log = logging.getLogger(__name__)

_CONNECTED = re.compile(r"SuperNode ID: (\d+)")
"""What a SuperNode logs when the server has activated its node."""
_PATIENCE = 15.0
"""Seconds that a SuperNode whose launcher was killed has to end by itself."""


class Place:
    """The node of the site's last SuperNode, until it has left the server.

    Parameters
    ----------
    kit : SiteKit
    file : Path
        Keeps the node, so that the next launcher knows it.
    """

    def __init__(self, kit: SiteKit, file: Path) -> None:
        self._kit, self._file = kit, file

    def watch(self, output: str, process: int) -> None:
        """Note the node of a SuperNode if its new `output` says that it is connected."""
        for node in _CONNECTED.findall(output):
            facts = {"node": int(node), "machine": platform.node(), "process": process}
            write_json(self._file, facts)

    def left(self) -> None:
        """Forget the node of a SuperNode that ended in order."""
        self._file.unlink(missing_ok=True)

    def free(self) -> None:
        """Give the place of a SuperNode back that was killed, before its successor starts."""
        try:
            facts = json.loads(self._file.read_text())
            node, machine, process = facts["node"], facts["machine"], facts["process"]
        except (OSError, ValueError, KeyError, TypeError):
            return  # there is none, or the file is damaged: its successor waits for a minute
        if machine != platform.node():  # a copy of this folder: the other one may be running
            return
        end = time.monotonic() + _PATIENCE
        while is_running(process) and time.monotonic() < end:
            time.sleep(0.1)
        try:
            key = read_key(self._kit.private_key, openssh=True)
            ca = self._kit.ca_certificate.read_bytes()
            deactivate_node(self._kit.facts.server, ca, key, node)
        except httpx.HTTPStatusError:
            pass  # it had left already
        except httpx.HTTPError as error:
            log.warning("the server was not told that the SuperNode ended: %s", error)
            return
        self.left()
