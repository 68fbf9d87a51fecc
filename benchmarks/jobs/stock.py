"""The stock Flower app, in Flower's simulation or as a deployment on the loopback.

``python -m benchmarks.jobs.stock simulation|deployment FOLDER ROUNDS STEPS``

It writes into the working directory, whose path must be short: Ray's sockets lie below it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx

from benchmarks.processes import ROOT, Failed, background, tell, wait_until
from benchmarks.work import FACTS
from mdmt.deployment.processes import flower_environment, free_port, last_error
from mdmt.files import read_json
from mdmt.results.runs import read_lines

_APP = ROOT / "benchmarks" / "plain_flower"


def main(kind: str, folder: Path, rounds: int, steps: int) -> None:
    """Run it to its end and tell when its rounds were over."""
    home = Path.cwd()
    # Ray's actors import the app from the path, not from the bundle.
    os.environ |= flower_environment(home)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_APP), os.environ["PYTHONPATH"]])
    os.environ |= {"RAY_TMPDIR": str(home), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # listen on the loopback
    with ExitStack() as stack:
        address = _start(kind, home, int(read_json(folder / FACTS)["sites"]), stack)
        _run(kind, address, home, folder, rounds, steps)
    lines = read_lines(home / "stamps.jsonl")
    if not lines or not lines[-1].get("done"):
        raise Failed(f"the stock app broke off: {last_error(home / 'run.log')}")
    tell(ends=[line["time"] for line in lines[:-1]], **lines[-1])


def _start(kind: str, home: Path, sites: int, stack: ExitStack) -> str:
    """Start SuperLink and, in a deployment, SuperNodes; give the SuperLink's address."""
    address = f"127.0.0.1:{(port := free_port())}"
    superlink = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
    superlink += ["--host", "127.0.0.1", "--port", str(port)]
    simulation = ["--simulation"] if kind == "simulation" else []
    stack.enter_context(background([*superlink, *simulation], home, "superlink.log"))
    wait_until(lambda: _healthy(address), "the SuperLink")
    for site in range(0 if simulation else sites):
        node = ["flower-supernode", "--insecure", "--superlink", address]
        node += ["--port", str(free_port())]
        node += ["--node-config", f"partition-id={site} num-partitions={sites}"]
        stack.enter_context(background(node, home, f"supernode-{site}.log"))
    return address


def _run(kind: str, address: str, home: Path, folder: Path, rounds: int, steps: int) -> None:
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "own"\n[superlink.own]\naddress = "{address}"\ninsecure = true\n'
    )
    stamps = home / "stamps.jsonl"
    command = ["flwr", "run", str(_APP), "own", "--stream", "--run-config"]
    command += [f'work="{folder}" stamps="{stamps}" rounds={rounds} steps={steps}']
    if kind == "simulation":
        sites, cores = read_json(folder / FACTS)["sites"], os.cpu_count() or 1
        resources = f"num-supernodes={sites} client-resources-num-cpus=1 init-args-num-cpus={cores}"
        command += ["--federation-config", resources]
    with (home / "run.log").open("wb") as log:
        subprocess.run(command, cwd=home, stdout=log, stderr=log, check=False)


def _healthy(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/health").status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
