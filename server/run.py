"""The run directory: everything the server keeps of a run, readable at any moment."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from mdmt import __version__
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig, load_saved_federation, save_config, saved_by
from mdmt.errors import BadInput, RunError
from mdmt.files import read_json, write_json, write_text
from mdmt.messages import SiteCard
from mdmt.results.runs import read_lines
from server.writer import CheckpointWriter

__all__ = [
    "RunDirectory",
    "find_run",
    "last_event",
    "new_run_folder",
    "raise_unless_done",
    "versions",
]


def new_run_folder(out: Path | None, name: str, root: Path = Path("runs")) -> Path:
    """Choose and make a folder for a new run; one that holds anything is never reused.

    Parameters
    ----------
    out : Path or None
        What the user asked for; without it ``runs/<name>``, ``runs/<name>-2``, ...
    name : str
        Of the federation.

    Raises
    ------
    BadInput
        `out` exists and is not an empty folder.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise BadInput(f"{out}: already holds something; choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        return out.resolve()
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder.resolve()


def find_run(out: Path | None, config: FederationConfig, root: Path = Path("runs")) -> Path:
    """Find the run of a federation that is to be resumed.

    Parameters
    ----------
    out : Path or None
        What the user asked for; without it the newest of ``runs/<name>``, ``runs/<name>-2``, ...
    config : FederationConfig

    Raises
    ------
    BadInput
        There is none, it is done, or another version or configuration started it.
    """
    folder = out
    if folder is None:
        names = re.compile(rf"{re.escape(config.name)}(?:-(\d+))?")
        found = {
            int(match[1] or 1): path
            for path in root.glob(f"{config.name}*")
            if (match := names.fullmatch(path.name))
        }
        if not found:
            raise BadInput(f"{root / config.name}: no run to resume; start one without --resume")
        folder = found[max(found)]
    if not (folder / "federation.yaml").is_file():
        raise BadInput(f"{folder}: no run to resume; start one without --resume")
    if (folder / "metrics.json").is_file():
        raise BadInput(f"{folder}: this run is done; start a new one without --resume")
    wrote = saved_by(folder / "federation.yaml")
    if wrote.split(".")[:2] != __version__.split(".")[:2]:
        raise BadInput(
            f"{folder}: mdmt {wrote} wrote this run and mdmt {__version__} cannot resume it: resume"
            f" it with mdmt {wrote}, or start a new run without --resume"
        )
    if load_saved_federation(folder / "federation.yaml").hash != config.hash:
        raise BadInput(
            f"{folder}: was started with another configuration, which is its federation.yaml;"
            " resume with that one, or start a new run"
        )
    return folder.resolve()


def last_event(folder: Path, earlier: int = 0) -> dict[str, Any]:
    """Give the last event of the attempt at a run that began after the first `earlier` events.

    An attempt before it may be ended at this moment, and say so among them: its process is another.
    Empty if the attempt has not begun.
    """
    events = read_lines(folder / "events.jsonl")[earlier:]
    begun = [event["process"] for event in events if event["event"] == "registration"]
    own = [event for event in events if begun and event["process"] == begun[-1]]
    return own[-1] if own else {}


def raise_unless_done(event: Mapping[str, Any], otherwise: str) -> None:
    """Judge a run by the ServerApp's last event: `flwr run` exits 0 on failures too.

    Raises
    ------
    BadInput
        The ServerApp ended with exit code 2: the sites cannot form this federation.
    RunError
        The run ended in any other way but ``done``; `otherwise` says so if it did not say itself.
    """
    if event.get("event") == "failed":
        raise (BadInput if event["exit_code"] == BadInput.exit_code else RunError)(event["message"])
    if event.get("event") != "done":
        raise RunError(otherwise)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    packages = ("mdmt", "torch", "torchvision", "timm", "flwr", "numpy", "pydicom", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


class RunDirectory:
    """Files of one run.

    ``federation.yaml``, ``sites.json``, ``history.jsonl``, ``events.jsonl``, ``checkpoints/``,
    ``metrics.json``, ``release/``.

    Parameters
    ----------
    folder : Path
    config : FederationConfig
        Its checkpoints are refused to any other.

    Attributes
    ----------
    writer : CheckpointWriter
        Ends its work when a block ``with`` this directory ends, however it does.
    """

    def __init__(self, folder: Path, config: FederationConfig) -> None:
        self.folder = folder
        self._files = RoundFiles(folder / "checkpoints", {"federation": config.hash})
        self.writer = CheckpointWriter(self._files)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.writer.close()

    @property
    def checkpoints(self) -> RoundFiles:
        """The checkpoints, when the last one is written."""
        self.writer.wait()
        return self._files

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint, or a history, to go on from."""
        return bool(self.checkpoints.rounds()) or (self.folder / "history.jsonl").exists()

    def write_sites(self, config: FederationConfig, cards: Mapping[str, SiteCard]) -> None:
        """Write what is known of the sites: configuration, cards, versions.

        A site that took part earlier keeps its card.
        """
        if not (self.folder / "federation.yaml").exists():
            save_config(config, self.folder / "federation.yaml")
        file = self.folder / "sites.json"
        former = read_json(file)["sites"] if file.exists() else {}
        sites = former | {name: card.model_dump(mode="json") for name, card in cards.items()}
        write_json(
            file,
            {
                "federation": config.name,
                "hash": config.hash,
                "seed": config.seed,
                "versions": versions(),
                "sites": dict(sorted(sites.items())),
            },
        )

    def event(self, kind: str, **data: Any) -> None:
        """Tell whoever watches: one line of ``events.jsonl``."""
        facts = {"event": kind, "time": round(time.time(), 3), "process": os.getpid(), **data}
        self._append("events.jsonl", facts)

    def history(self, line: Mapping[str, Any]) -> None:
        """Book a round whose checkpoint is written: a line of ``history.jsonl``, on the disk."""
        self.writer.wait()
        self._append("history.jsonl", line, durable=True)

    def rewind(self, number: int) -> None:
        """Take back what was booked of round `number` and later ones: they will be booked again."""
        file = self.folder / "history.jsonl"
        if file.exists():
            complete = [line for line in file.read_text().splitlines(True) if line.endswith("\n")]
            write_text(file, "".join(c for c in complete if json.loads(c)["round"] < number))

    def metrics(self, value: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_json(self.folder / "metrics.json", value)

    def _append(self, name: str, line: Mapping[str, Any], *, durable: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a+b") as stream:
            _cut_half_a_line(stream)
            stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            if durable:
                stream.flush()
                os.fsync(stream.fileno())


def _cut_half_a_line(stream: BinaryIO) -> None:
    """Take away what a crash, or a full disk, left of a last line."""
    end = stream.seek(0, os.SEEK_END)
    if not end:
        return
    stream.seek(end - 1)
    if stream.read(1) != b"\n":
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
