"""Our federation as a deployment on the loopback: TLS, keys, proxy, a process per site.

``python -m benchmarks.jobs.deployment FOLDER OUT``; kits and logs go into the working directory.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import MDMT, Failed, background, wait_until
from benchmarks.work import CONFIG
from client.deployment.join import join_site
from mdmt.config import load_federation
from mdmt.deployment.kits import open_site_kit
from mdmt.deployment.processes import last_error


def main(folder: Path, out: Path) -> None:
    """Make kits, start server and sites, run the federation into `out`."""
    federation = yaml.safe_load((folder / CONFIG).read_text())
    home = Path.cwd()
    with ExitStack() as stack:
        where = ["--server", f"localhost:{_three_ports()}", "--out", str(home / "kits")]
        _command(home, "provision", str(folder / CONFIG), *where)
        kits = {site: home / "kits" / "sites" / site for site in federation["sites"]}
        for site, settings in federation["sites"].items():
            _fill_in(kits[site] / "site.yaml", settings, folder / CONFIG)
            _join(home, kits[site])
        server = [MDMT, "server", "start", "kits/server"]
        log = stack.enter_context(background(server, home, "server.log", OMP_NUM_THREADS="1"))
        wait_until(lambda: "sites can connect" in log.read_text(), f"the server; see {log}")
        for site, kit in kits.items():
            start = [MDMT, "site", "start", str(kit)]
            stack.enter_context(background(start, home, f"{site}.log", OMP_NUM_THREADS="1"))
        _command(home, "server", "run", str(folder / CONFIG), "--out", str(out))


def _fill_in(file: Path, settings: dict[str, Any], federation: Path) -> None:
    """Fill in a site's file, and approve the federation without other limits."""
    own = yaml.safe_load(file.read_text())
    policy = {"apps": own["policy"]["apps"], "recipes": [load_federation(federation).hash]}
    given = {key: value for key, value in settings.items() if key != "tasks"}
    file.write_text(yaml.safe_dump(own | given | {"policy": policy}))


def _join(home: Path, kit: Path) -> None:
    """Let a site make its key, and the server admit it."""
    request = join_site(open_site_kit(kit))
    _command(
        home,
        *("server", "admit", str(request.request), "--kit", "kits/server"),
        *("--fingerprint", request.fingerprint),
    )


def _command(home: Path, *arguments: str) -> None:
    log = home / f"{arguments[0]}-{arguments[1]}.log".replace("/", "")
    with log.open("wb") as stream:
        done = subprocess.run([MDMT, *arguments], cwd=home, stdout=stream, stderr=stream)
    if done.returncode:
        raise Failed(
            f"mdmt {' '.join(arguments[:2])} ended with {done.returncode}: {last_error(log)}"
        )


def _three_ports() -> int:
    """The first of three ports in a row that nobody listens on: a kit's."""
    for first in range(20001, 30000, 7):
        with suppress(OSError):
            for port in range(first, first + 3):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise Failed("no free ports")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
