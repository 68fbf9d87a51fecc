"""The run directory: everything the server keeps of a run, readable at any moment."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from mdmt.config import FederationConfig, save_config
from mdmt.errors import BadInput
from mdmt.files import atomic_path, write_json
from mdmt.messages import SiteCard

__all__ = ["RunDirectory", "new_run_folder", "versions"]


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


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    packages = ("mdmt", "torch", "torchvision", "timm", "flwr", "numpy", "pydicom", "scikit-learn")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


class RunDirectory:
    """Files of one run.

    ``federation.yaml``, ``sites.json``, ``history.jsonl``, ``events.jsonl``, ``checkpoints/``,
    ``metrics.json``, ``release/``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def start(self, config: FederationConfig, cards: Mapping[int, SiteCard]) -> None:
        """Write what is known before round 1: configuration, sites, versions."""
        if not (self.folder / "federation.yaml").exists():
            save_config(config, self.folder / "federation.yaml")
        write_json(
            self.folder / "sites.json",
            {
                "federation": config.name,
                "hash": config.hash,
                "seed": config.seed,
                "versions": versions(),
                "sites": {card.name: card.model_dump(mode="json") for card in cards.values()},
            },
        )

    def event(self, kind: str, **data: Any) -> None:
        """Tell whoever watches: one line of ``events.jsonl``."""
        self._append("events.jsonl", {"event": kind, "time": round(time.time(), 3), **data})

    def history(self, line: Mapping[str, Any]) -> None:
        """Book one round: one line of ``history.jsonl``."""
        self._append("history.jsonl", line)

    def checkpoint(
        self, name: str, arrays: Mapping[str, NDArray[np.floating]], facts: Mapping[str, Any]
    ) -> None:
        """Write ``checkpoints/<name>.safetensors``, with `facts` in its header and beside it."""
        path = self.folder / "checkpoints" / f"{name}.safetensors"
        with atomic_path(path) as temporary:
            contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
            save_file(contiguous, temporary, metadata={"facts": json.dumps(facts)})
        write_json(path.with_suffix(".json"), facts)

    def metrics(self, value: Mapping[str, Any]) -> None:
        """Write ``metrics.json``."""
        write_json(self.folder / "metrics.json", value)

    def _append(self, name: str, line: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, allow_nan=False) + "\n")
