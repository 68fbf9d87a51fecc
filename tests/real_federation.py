"""A real federation on the loopback: SuperLink, nginx and sites in processes of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import pytest
import yaml
from builders import federation_dict
from deployment import admit, free_ports

from mdmt.config import load_federation
from mdmt.deployment.kits import KIT_FILE, ServerKit, open_server_kit
from mdmt.deployment.processes import flower_environment
from mdmt.files import read_json, write_json
from server.deployment.nodes import list_nodes

MDMT = str(Path(sysconfig.get_path("scripts")) / "mdmt")
FAULTS = Path(__file__).parent / "e2e" / "faults"
SITES = {"clinic": "severity", "hospital": "prognosis", "ward": "severity"}
TRAINING = {"rounds": 3, "local_steps": 2, "batch_size": 4, "optimizer": "adam"}

POLICY = {
    "min_patients_per_update": 1,
    "min_examples": 0,
    "min_examples_per_metric": 0,
    "max_messages": 10_000,
    "max_rounds": 50,
}
"""What the sites allow: they have few patients and answer many runs."""


def settings(**changes: Any) -> dict[str, Any]:
    """A federation of the three sites, quick enough for tests."""
    aggregation = {"min_sites": 2, "join_timeout": 100} | changes.pop("aggregation", {})
    training = TRAINING | {"round_timeout": 60} | changes.pop("training", {})
    return federation_dict(training=training, aggregation=aggregation, **changes)


def dataset(site: str) -> dict[str, Any]:
    """Drawn radiographs; every site has its own number of patients."""
    patients = 10 + 2 * sorted(SITES).index(site)
    return {"kind": "synthetic", "patients": patients, "size": 48, "images_per_patient": 1}


class RealFederation:
    """Kits of the three sites and their processes; leaving it ends all of them, by pid."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        if shutil.which("nginx") is None and shutil.which("nginx", path="/usr/sbin") is None:
            pytest.skip("nginx is not installed: apt install nginx-light")
        self.folder = folder
        self.mark = f"MDMT_TEST_MARK={uuid4().hex}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.config_file = self.write_config(**changes)
        self.address = f"localhost:{free_ports()}"
        self.provision()
        for site in SITES:
            admit(self.server_kit, site)
        for site, task in SITES.items():
            self.fill_in(site, dataset=dataset(site), tasks=[task], device="cpu", workers=0)
        self.approve()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def provision(self) -> None:
        sites = [f"--site={site}" for site in SITES]
        address = ("--server", self.address)
        self.mdmt("provision", self.config_file, *address, "--out", "kits", *sites)

    def join(self, site: str) -> None:
        """Let a site make its key, and the coordinator admit it, by the commands."""
        told = self.mdmt("site", "join", self.site_kit(site)).stdout
        (said,) = re.findall(r"SHA256:\S{43}", told)
        request = self.site_kit(site) / f"{site}.request"
        self.mdmt("server", "admit", request, "--kit", "kits/server", "--fingerprint", said)

    @property
    def server_kit(self) -> ServerKit:
        return open_server_kit(self.folder / "kits" / "server")

    def site_kit(self, site: str) -> Path:
        return self.folder / "kits" / "sites" / site

    def state(self, site: str) -> Path:
        return self.site_kit(site) / "state"

    def fault_file(self, site: str) -> Path:
        """Holds lines of ``KIND ROUND`` to make the site misbehave; see `site_faults`."""
        return self.folder / f"fault-{site}"

    def misbehave(self, site: str, *faults: str) -> None:
        self.fault_file(site).write_text("\n".join(faults))

    def behave(self, site: str) -> None:
        """Let the site do as it should; what it holds goes on."""
        for file in (self.fault_file(site), self.fault_file(site).with_suffix(".pid")):
            file.unlink(missing_ok=True)

    def write_config(self, **changes: Any) -> Path:
        file = self.folder / "federation.yaml"
        file.write_text(yaml.safe_dump(settings(**changes)))
        if (self.folder / "kits").exists():
            self.approve()
        return file

    def approve(self) -> None:
        """Approve the federation's file at every site, and allow so few patients."""
        recipe = load_federation(self.folder / "federation.yaml").hash
        for site in SITES:
            self.fill_in(site, policy=POLICY | {"recipes": [recipe]})

    def fill_in(self, site: str, **changes: Any) -> None:
        """Change keys of a site's file, as its engineer would."""
        file = self.site_kit(site) / "site.yaml"
        found = yaml.safe_load(file.read_text())
        tasks = changes.pop("tasks", None)
        if tasks is not None:
            found["tasks"] = {task: found["tasks"][task] for task in tasks}
        found["policy"] |= changes.pop("policy", {})
        file.write_text(yaml.safe_dump(found | changes))

    def copy_kit(self, site: str, name: str, **facts: str) -> Path:
        """A copy of a site's kit to break; `facts` are of its ``kit.json``."""
        kit = self.site_kit(name)
        made = shutil.ignore_patterns("state", "cache", "audit-head.json")  # by the site at work
        shutil.copytree(self.site_kit(site), kit, ignore=made)
        write_json(kit / KIT_FILE, read_json(kit / KIT_FILE) | facts)
        return kit

    def at_rest(self) -> None:
        """Wait until the usual federation can run, its sites without a fault."""
        self.write_config()
        for site in SITES:
            self.behave(site)
            if site not in self.processes:
                self.start_site(site, faulty=True)
        self.wait(lambda: self.online() == set(SITES), "the sites")

    def mdmt(self, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        done = subprocess.run(
            [MDMT, *map(str, arguments)],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def flower(self, *command: object, home: Path) -> subprocess.CompletedProcess[str]:
        """Run one of Flower's own commands to its end, whatever it is; `home` has its settings."""
        return subprocess.run(
            list(map(str, command)),
            cwd=self.folder,
            env=flower_environment(home) | self._environment_mark(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def start(self, name: str, *arguments: object, faulty: bool = False) -> None:
        """Start a command that stays; its output is in ``NAME.log``."""
        environment = self._environment()
        if faulty:
            path = filter(None, [str(FAULTS), environment.get("PYTHONPATH")])
            environment["PYTHONPATH"] = os.pathsep.join(path)
            environment["MDMT_TEST_FAULT"] = str(self.fault_file(name))
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [MDMT, *map(str, arguments)],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def start_server(self) -> None:
        self.start("server", "server", "start", "kits/server")
        self.mdmt("server", "status", "kits/server", "--wait", "60")
        self.wait(lambda: "sites can connect" in self.log("server"), "the server")

    def start_all(self, *, faulty: bool = False) -> None:
        self.start_server()
        for site in SITES:
            self.start_site(site, faulty=faulty)

    def start_site(self, site: str, *, faulty: bool = False) -> None:
        self.start(site, "site", "start", self.site_kit(site), faulty=faulty)

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(number)
        return process.wait(30)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def pid(self, name: str, service: str) -> int:
        """Process id of the latest start of a service that a command keeps running."""
        return int(re.findall(rf"{service} runs as process (\d+)", self.log(name))[-1])

    def run(self, out: str, *options: object) -> subprocess.CompletedProcess[str]:
        """Run the federation and wait for its end, whatever it is."""
        return self.mdmt("server", "run", self.config_file, "--out", out, *options, check=False)

    def start_run(self, out: str, *options: object) -> None:
        self.start("run", "server", "run", self.config_file, "--out", out, *options)

    def complete_run(self, out: str, *options: object) -> str:
        """Run the federation to its good end; what it says."""
        done = self.run(out, *options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def end_of_run(self) -> int:
        return self.processes.pop("run").wait(240)

    def lines(self, out: str, name: str) -> list[dict[str, Any]]:
        file = self.folder / out / f"{name}.jsonl"
        lines = file.read_text().splitlines(True) if file.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def refusals(self, out: str) -> dict[tuple[str, int], str]:
        """Why sites were not heard, by site and round, as the history says."""
        return {
            (site, line["round"]): reason
            for line in self.lines(out, "history")
            for site, reason in line["refusals"].items()
        }

    def missed(self, out: str) -> set[tuple[str, int]]:
        """Sites that a round's backbone owes nothing to."""
        return {
            (site, line["round"])
            for line in self.lines(out, "history")[1:]
            for site in SITES
            if "weight" not in line["sites"].get(site, {})
        }

    def online(self) -> set[str]:
        return {node.name for node in list_nodes(self.server_kit) if node.status == "online"}

    def wait_for_event(self, out: str, kind: str, count: int = 1, **facts: Any) -> dict[str, Any]:
        """Wait for the `count`-th event of a kind with these facts."""

        def found() -> list[dict[str, Any]]:
            wanted = {"event": kind} | facts
            return [e for e in self.lines(out, "events") if wanted.items() <= e.items()]

        self.wait(lambda: len(found()) >= count, f"{kind} {facts}")
        return found()[count - 1]

    def wait(self, condition: Callable[[], object], what: str, seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(self.log(name)[-1500:] for name in self.processes)
                raise AssertionError(f"waited {seconds} s for {what}\n{logs}")
            time.sleep(0.1)

    def left_behind(self) -> list[int]:
        """Processes that descend from this federation."""
        found = []
        for file in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self.mark.encode() in file.read_bytes():
                    found.append(int(file.parent.name))
        return found

    def close(self) -> None:
        for name in list(self.processes):
            with suppress(subprocess.TimeoutExpired):
                self.stop(name)
        for pid in self.left_behind():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _environment(self) -> dict[str, str]:
        environment = {k: v for k, v in os.environ.items() if k != "MDMT_KIT"}
        return environment | self._environment_mark() | {"OMP_NUM_THREADS": "1"}

    def _environment_mark(self) -> dict[str, str]:
        key, _, value = self.mark.partition("=")
        return {key: value}
