"""The proxy in front of the SuperLink: nginx, its configuration, and what is left of a killed one.

nginx has a master and workers. If the master is killed, its workers live on and keep the port, and
no other nginx can start. So they are ended before each start.
"""

from __future__ import annotations

import hashlib
import logging
import os
import select
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mdmt.deployment.kits import ServerKit, split_address
from mdmt.deployment.processes import Service, flower_environment
from mdmt.errors import BadInput
from mdmt.files import render, write_text

log = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds that a worker without a master has to end before it is killed."""
_MARK = "# SHA-256 of the lines below, which mdmt wrote: "


def proxy_service(kit: ServerKit) -> Service:
    """Return the service that keeps nginx running.

    Raises
    ------
    BadInput
        nginx is not installed.
    """
    program = _find_nginx()
    command = [program, "-p", str(kit.folder), "-c", str(kit.proxy_file), "-e", "stderr"]

    def start() -> list[str]:
        end_orphans(kit)
        return command

    return Service("proxy", start, flower_environment(kit.flwr_home), _log_file(kit))


def write_proxy_config(kit: ServerKit) -> None:
    """Write ``nginx.conf`` and make the folder that the proxy needs.

    A file that was changed by hand is left as it is.
    """
    kit.run_folder.mkdir(exist_ok=True)
    if kit.proxy_file.exists() and not _is_ours(kit.proxy_file.read_text(encoding="utf-8")):
        log.warning(
            "%s was changed by hand and is used as it is; delete it to have it written anew",
            kit.proxy_file,
        )
        return
    port = split_address(kit.facts.server)[1]
    listen = [f"{f'[{a}]' if ':' in a else a}:{port}" for a in listening_addresses(kit)]
    text = render(
        "server.deployment",
        "nginx.conf.j2",
        listen=listen,
        superlink_port=kit.facts.superlink_port,
    )
    write_text(kit.proxy_file, f"{_MARK}{_digest(text)}\n{text}")


def listening_addresses(kit: ServerKit) -> list[str]:
    """Return the IP addresses that the proxy listens on."""
    if kit.facts.bind is not None:
        return [kit.facts.bind]
    return ["0.0.0.0"] + (["::"] if ":" in split_address(kit.facts.server)[0] else [])


def end_orphans(kit: ServerKit) -> None:
    """End the workers of this kit's nginx whose master was killed.

    Only the command that holds the kit's lock may call this, while it has no nginx.
    """
    for pid in _nginx_processes():
        with suppress(OSError), _process(pid) as descriptor:  # OSError: it has just ended
            if not _writes_to(pid, _log_file(kit)):
                continue
            log.warning("process %d is left of a killed proxy and is ended", pid)
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], _GRACE)[0]:
                    break


def _nginx_processes() -> Iterator[int]:
    """Yield the processes of this user that run nginx."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            own = folder.stat().st_uid == os.geteuid() or os.geteuid() == 0
            if own and (folder / "comm").read_text().strip() == "nginx":
                yield int(folder.name)


@contextmanager
def _process(pid: int) -> Iterator[int]:
    """A file descriptor of a process: a signal to it never reaches another one with its number."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _writes_to(pid: int, log_file: Path) -> bool:
    """Return True if the errors of a process go to this log: then this kit has started it."""
    return Path(f"/proc/{pid}/fd/2").readlink() == log_file


def _log_file(kit: ServerKit) -> Path:
    return kit.run_folder / "nginx.log"


def _is_ours(text: str) -> bool:
    """Return True if the text is as `write_proxy_config` wrote it, with any values."""
    mark, _, rest = text.partition("\n")
    return mark == f"{_MARK}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _find_nginx() -> str:
    """Find nginx; Debian keeps it out of an ordinary user's PATH."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BadInput("nginx is not installed; install it, on Debian: apt install nginx-light")
    return found
