"""The memory of a site: one file per round with its heads, moments and rounding errors.

A round starts from the memory after an earlier round. This file is kept until a later message
confirms the round, so that a repeated order gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mdmt.blob import Arrays
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig, SiteConfig
from mdmt.errors import StateError
from mdmt.site_round import OF_MODEL

RunMode = Literal["federated", "local", "refitted", "tests"]
_LOST = "lost."
"""Prefix of the rounding errors of the last update (see `mdmt.wire`)."""


def round_files(
    site: SiteConfig, federation: FederationConfig, run: str, mode: RunMode = "federated"
) -> RoundFiles:
    """Return the memory files of a site in one run."""
    identity = {
        "federation": federation.hash,
        "run": run,
        "mode": mode,
        "site": site.name,
        "backbone": federation.model.backbone,
    }
    return RoundFiles(site.state_root / federation.name / run / mode, identity)


class SiteMemory:
    """The memory of a site after its last round up to `up_to`; empty if there was none."""

    def __init__(self, files: RoundFiles, up_to: int) -> None:
        self.files = files
        number = files.latest(up_to)
        self.empty = number is None
        saved = {} if number is None else files.load(number).tensors
        self.tensors = {n: value for n, value in saved.items() if not n.startswith(_LOST)}
        self.lost: Arrays = {
            n.removeprefix(_LOST): v.numpy() for n, v in saved.items() if n.startswith(_LOST)
        }

    def save(
        self, number: int, tensors: Mapping[str, Tensor], lost: Arrays, keep: tuple[int, ...]
    ) -> None:
        """Write the memory for the next round, and delete rounds that are not needed any more.

        The server can go back by one round, so the start of the last two rounds is kept.
        """
        rounding = {_LOST + name: torch.from_numpy(array) for name, array in lost.items()}
        self.files.save(number, {**tensors, **rounding})
        self.files.prune((*keep, *range(number - 2, number + 1)))


def kept_tensors(
    site: SiteConfig, federation: FederationConfig, run: str, up_to: int
) -> dict[str, Tensor]:
    """Return the tensors of a site's own for the model of round `up_to`: heads, local norms.

    These are the refitted ones with `training.refit_heads`, and those of its memory without. A site
    with a backbone of its own has it among them.

    Raises
    ------
    StateError
        There are none: the site never trained or tested, or its state is in another folder.
    """
    if federation.training.refit_heads:
        files = round_files(site, federation, run, "refitted")
        if up_to not in files.rounds():
            raise StateError(
                f"{files.folder}: {site.name} has no refitted heads of round {up_to}: it did not"
                " test this round; resume the run"
            )
        return files.load(up_to).tensors
    memory = SiteMemory(round_files(site, federation, run), up_to)
    if memory.empty:
        raise StateError(
            f"{memory.files.folder}: {site.name} kept nothing of round {up_to} or earlier"
        )
    return {name: value for name, value in memory.tensors.items() if name.startswith(OF_MODEL)}
