"""Reading a release: each task's backbone, and the heads that sites gave with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mdmt.config import FederationConfig
from mdmt.config.renamed import upgrade
from mdmt.errors import BadInput, StateError
from mdmt.models import MDMTModel, build_model, head_task, load_staying, set_arrays

__all__ = ["RELEASE_FORMAT", "Release", "backbone_file", "open_release", "site_file"]

RELEASE_FORMAT = 1


def backbone_file(number: int) -> str:
    """Name of the backbone of a round within a release."""
    return f"backbone-{number:05d}.safetensors"


def site_file(site: str, number: int) -> str:
    """Name of a site's own part (heads, local norms) after a round within a release."""
    return f"sites/{site}-{number:05d}.safetensors"


@dataclass(frozen=True)
class Release:
    """A release folder.

    Attributes
    ----------
    folder : Path
    run : str
        Id of the run it comes from.
    hash : str
        Of the federation, by the version that wrote the release.
    config : FederationConfig
        Without sites.
    rounds : dict of str to int
        Task → the round released for it.
    """

    folder: Path
    run: str
    hash: str
    config: FederationConfig
    rounds: dict[str, int]

    def sites(self, task: str) -> list[str]:
        """Sites whose head of `task` is in the release; ``""`` stands for the shared head."""
        if self.config.aggregation.heads == "shared":
            return [""]
        end = f"-{self.rounds[task]:05d}.safetensors"
        return [
            file.name.removesuffix(end)
            for file in sorted((self.folder / "sites").glob(f"*{end}"))
            if any(head_task(name) == task for name in load_file(file))
        ]

    def models(self, task: str) -> Iterator[tuple[str, MDMTModel]]:
        """Yield (site, model in evaluation mode) for every head of `task` in the release."""
        number = self.rounds[task]
        backbone = _read(self.folder / backbone_file(number))
        for site in self.sites(task):
            own = _read(self.folder / site_file(site, number)) if site else {}
            tasks = sorted({t for n in (*own, *backbone) if (t := head_task(n)) is not None})
            model = build_model(self.config, tasks, weights=False)
            set_arrays(model, {name: value.numpy() for name, value in backbone.items()})
            load_staying(model, own)
            yield site, model.eval()


def open_release(folder: Path) -> Release:
    """Open a release folder.

    Raises
    ------
    BadInput
        There is no release, or one of another format.
    """
    try:
        facts = json.loads((folder / "release.json").read_text(encoding="utf-8"))
        if facts["format"] != RELEASE_FORMAT:
            raise BadInput(f"{folder}: release format {facts['format']}, this version reads 1")
        config = FederationConfig.model_validate(upgrade(facts["recipe"]))
        return Release(folder, facts["run"], facts["hash"], config, facts["rounds"])
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{folder}: not a release; give the release/ folder of a run") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with torch.inference_mode(False):
            tensors: dict[str, Tensor] = load_file(path)
            return tensors
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from error
