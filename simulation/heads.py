"""Add the heads of the sites to a release. The sites must be on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from client.memory import kept_tensors
from mdmt.config import FederationConfig
from mdmt.files import atomic_path
from mdmt.releases import site_file
from mdmt.results.runs import read_lines


def release_heads(release: Path, config: FederationConfig, facts: Mapping[str, Any]) -> None:
    """Copy the heads and local normalisation layers of each site after the released rounds.

    Parameters
    ----------
    release : Path
    config : FederationConfig
        With sites.
    facts : mapping
        ``release.json``.

    Raises
    ------
    StateError
        A site trained, but has no memory.
    """
    history = read_lines(release.parent / "history.jsonl")
    for site in config.sites.values():
        for number in {facts["rounds"][task] for task in site.offered}:
            rounds = (line["sites"] for line in history if line["round"] <= number)
            if not any("steps" in sites.get(site.name, ()) for sites in rounds):
                continue  # never drawn or always refused: it has no head
            tensors = kept_tensors(site, config, facts["run"], number)
            with atomic_path(release / site_file(site.name, number)) as temporary:
                save_file(tensors, temporary)
