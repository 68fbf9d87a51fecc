"""The run directory: all files of a run at the server. They can be read at any time."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from mdmt import __version__
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig, load_saved_federation, save_config, saved_by
from mdmt.errors import BadInput, IncompleteError, RunError
from mdmt.files import naming_full_disk, read_json, write_json, write_text
from mdmt.messages import SiteCard
from mdmt.results.runs import read_lines, read_object
from server.run_lock import claim, only_writer


def new_run_folder(out: Path | None, name: str, root: Path = Path("runs")) -> Path:
    """Choose and create the folder of a new run. No other run gets the same folder.

    Parameters
    ----------
    out : Path or None
        Folder that the user set. The default is ``runs/<name>``, ``runs/<name>-2``, ...
    name : str
        Name of the federation.

    Raises
    ------
    BadInput
        `out` exists and is not an empty folder.
    """
    if out is not None:
        if not out.exists():
            out.mkdir(parents=True, exist_ok=True)
        claim(out)
        return out.resolve()
    number = 1
    while True:
        folder = root / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            claim(folder)
            return folder.resolve()


def newest_run(name: str, root: Path = Path("runs")) -> Path:
    """Return the newest of ``runs/<name>``, ``runs/<name>-2``, ...

    Raises
    ------
    BadInput
        There is none.
    """
    names = re.compile(rf"{re.escape(name)}(?:-(\d+))?")
    pairs = [(names.fullmatch(path.name), path) for path in root.glob(f"{name}*")]
    found = {int(match[1] or 1): path for match, path in pairs if match}
    if not found:
        raise BadInput(f"{root / name}: no run to resume; start one without --resume")
    return found[max(found)]


def find_run(out: Path | None, config: FederationConfig, root: Path = Path("runs")) -> Path:
    """Find the run of a federation that will be resumed.

    Parameters
    ----------
    out : Path or None
        Folder that the user set. The default is the newest of ``runs/<name>``, ``runs/<name>-2``...
    config : FederationConfig

    Raises
    ------
    BadInput
        There is no run, nothing of it is missing, or another version or configuration started it.
    """
    folder = out or newest_run(config.name, root)
    if not (folder / "federation.yaml").is_file():
        raise BadInput(f"{folder}: no run to resume; start one without --resume")
    metrics = read_object(folder / "metrics.json")
    if metrics is not None and not metrics.get("missing"):
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
    """Return the last event of the attempt that started after the first `earlier` events.

    An earlier attempt can end at the same time and write events too; it has another process. The
    result is empty if the attempt has not started.
    """
    events = read_lines(folder / "events.jsonl")[earlier:]
    begun = [event["process"] for event in events if event["event"] == "registration"]
    own = [event for event in events if begun and event["process"] == begun[-1]]
    return own[-1] if own else {}


def raise_unless_done(event: Mapping[str, Any], otherwise: str) -> None:
    """Check a run by the last event of the ServerApp.

    Raises
    ------
    BadInput
        The ServerApp ended with exit code 2: the sites cannot form this federation.
    IncompleteError
        All rounds are trained, but the final test lacks a site.
    RunError
        The run did not end with ``done``. The default message is `otherwise`.
    """
    if event.get("event") == "incomplete":
        raise IncompleteError(event["message"])
    if event.get("event") == "failed":
        raise (BadInput if event["exit_code"] == BadInput.exit_code else RunError)(event["message"])
    if event.get("event") != "done":
        raise RunError(otherwise)


def versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    packages = ("mdmt", "torch", "torchvision", "timm", "flwr", "numpy", "pydicom", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


class RunDirectory:
    """The files of one run.

    ``federation.yaml``, ``sites.json``, ``history.jsonl``, ``events.jsonl``, ``checkpoints/``,
    ``metrics.json``, ``release/``.

    Parameters
    ----------
    folder : Path
    config : FederationConfig
        Checkpoints of another configuration are refused.

    A checkpoint is written in a thread while the sites train the next round. A ``with`` block of
    this directory begins when no other process writes to it, and ends when the last checkpoint is
    written.
    """

    def __init__(self, folder: Path, config: FederationConfig) -> None:
        self.folder = folder
        self._files = RoundFiles(folder / "checkpoints", {"federation": config.hash})
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self._open.enter_context(only_writer(self.folder))
        self._open.callback(self._thread.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def save_round(
        self,
        number: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        keep: Iterable[int],
    ) -> None:
        """Start to save a round after the previous one is saved. Then delete all rounds but `keep`.

        Parameters
        ----------
        number : int
        tensors : mapping of str to Tensor
            They must not change after this call.
        facts : mapping
        keep : iterable of int
        """
        files, facts, keep = self.checkpoints, deepcopy(facts), [*keep]

        def write() -> None:
            files.save(number, tensors, facts)
            files.prune(keep)

        self._writing = self._thread.submit(write)

    @property
    def checkpoints(self) -> RoundFiles:
        """The checkpoints, when the last one is written; raises the error of a failed one."""
        self._wait()
        return self._files

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    @property
    def begun(self) -> bool:
        """True if there is a checkpoint or a history to continue from."""
        return bool(self.checkpoints.rounds()) or (self.folder / "history.jsonl").exists()

    def former_cards(self) -> dict[str, SiteCard]:
        """Return the cards of the sites that took part before this run was resumed."""
        file = self.folder / "sites.json"
        former = read_json(file)["sites"] if file.exists() else {}
        return {name: SiteCard.model_validate(card) for name, card in former.items()}

    def write_sites(self, config: FederationConfig, cards: Mapping[str, SiteCard]) -> None:
        """Write the configuration, the site cards and the versions.

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
        """Write one line to ``events.jsonl``."""
        facts = {"event": kind, "time": round(time.time(), 3), "process": os.getpid(), **data}
        self._append("events.jsonl", facts)

    def history(self, line: Mapping[str, Any]) -> None:
        """Write the line of a round to ``history.jsonl``, after its checkpoint is written."""
        self._wait()
        self._append("history.jsonl", line, durable=True)

    def rewind(self, number: int) -> None:
        """Remove the lines of round `number` and later rounds. They will be written again."""
        file = self.folder / "history.jsonl"
        if file.exists():
            complete = [line for line in file.read_text().splitlines(True) if line.endswith("\n")]
            write_text(file, "".join(c for c in complete if json.loads(c)["round"] < number))

    def known_sites(self) -> dict[str, SiteCard]:
        """Return the card of every site that ever took part, by name."""
        cards = read_json(self.folder / "sites.json")["sites"]
        return {name: SiteCard.model_validate(card) for name, card in sorted(cards.items())}

    def metrics(self, value: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_json(self.folder / "metrics.json", value)

    def read_metrics(self) -> dict[str, Any] | None:
        """Read the ``metrics.json`` of an earlier attempt; None if there is none."""
        return read_object(self.folder / "metrics.json")

    def _append(self, name: str, line: Mapping[str, Any], *, durable: bool = False) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / name
        with naming_full_disk(file), file.open("a+b") as stream:
            stream.seek(0)
            # A crash or a full disk can leave an incomplete last line.
            stream.truncate(stream.read().rfind(b"\n") + 1)
            stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
