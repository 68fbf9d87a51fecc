"""What a site keeps of a run: a file per round, with its heads, moments and rounding errors.

A round starts from what the site kept after an earlier one, and that file stays until a later
message confirms the round: an order that is repeated gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mdmt.algorithms.site_round import MOMENTS
from mdmt.blob import Arrays
from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig, SiteConfig
from mdmt.errors import StateError

__all__ = ["RunMode", "SiteMemory", "kept_tensors", "round_files"]

RunMode = Literal["federated", "local"]
_LOST = "lost."
"""Prefix of what the site's last update lost by rounding (`mdmt.wire`)."""


def round_files(
    site: SiteConfig, federation: FederationConfig, run: str, mode: RunMode = "federated"
) -> RoundFiles:
    """Files of a site in one run."""
    identity = {
        "federation": federation.hash,
        "run": run,
        "mode": mode,
        "site": site.name,
        "backbone": federation.model.backbone,
    }
    return RoundFiles(site.state_root / federation.name / run / mode, identity)


class SiteMemory:
    """What a site had after its last round up to `up_to`; empty if there was none."""

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
        """Write what the next round starts from, and delete rounds that nobody can ask for.

        The server may go back by one round, so the start of the last two rounds is kept.
        """
        rounding = {_LOST + name: torch.from_numpy(array) for name, array in lost.items()}
        self.files.save(number, {**tensors, **rounding})
        self.files.prune((*keep, *range(number - 2, number + 1)))


def kept_tensors(
    site: SiteConfig, federation: FederationConfig, run: str, up_to: int
) -> dict[str, Tensor]:
    """What a site kept after round `up_to` for its own use, without optimiser moments.

    Raises
    ------
    StateError
        It kept nothing: it never trained, or its state is elsewhere.
    """
    memory = SiteMemory(round_files(site, federation, run), up_to)
    if memory.empty:
        raise StateError(
            f"{memory.files.folder}: {site.name} kept nothing of round {up_to} or earlier"
        )
    return {name: value for name, value in memory.tensors.items() if not name.startswith(MOMENTS)}
