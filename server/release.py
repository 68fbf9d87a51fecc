"""Write the release: the files that `mdmt predict` needs, and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mdmt.blob import Arrays
from mdmt.config import FederationConfig
from mdmt.enough import enough_to_choose
from mdmt.files import atomic_path, write_json, write_text
from mdmt.messages import SiteCard
from mdmt.releases import RELEASE_FORMAT, backbone_file, site_backbone_file
from server.federation import Federation
from server.model_card import model_card
from server.run import RunDirectory, versions


def write_release(
    run: RunDirectory,
    federation: Federation,
    sites: Mapping[str, SiteCard],
    metrics: Mapping[str, Any],
) -> None:
    """Write the backbones that ``release.checkpoint`` chooses, and a model card.

    Parameters
    ----------
    run : RunDirectory
        The release is written to its ``release/``.
    federation : Federation
        A finished federation.
    sites : mapping of str to SiteCard
        Every site that took part.
    metrics : mapping
        The content of ``metrics.json``.
    """
    folder, chosen = run.folder / "release", choose(federation.config, sites, metrics)
    rounds = {task: metrics["checkpoints"][name]["round"] for task, name in chosen.items()}
    own_backbones: list[str] = []
    for number in sorted(set(rounds.values())):
        state = federation.state_after(number, run)
        frozen = federation.frozen.arrays
        _save(folder / backbone_file(number), {**frozen, **state.arrays})
        for site in sites:
            arrays = federation.config.algorithm.broadcast(state, site)
            if arrays is not state.arrays:
                own_backbones.append(site_backbone_file(site, number))
                _save(folder / own_backbones[-1], {**frozen, **arrays})
    write_json(
        folder / "release.json",
        {
            "format": RELEASE_FORMAT,
            "federation": federation.config.name,
            "run": federation.run_id,
            "hash": federation.config.hash,
            "recipe": federation.config.model_dump(mode="json", exclude={"sites"}),
            "rounds": rounds,
            "site_backbones": own_backbones,
            "versions": versions(),
        },
    )
    write_text(folder / "README.md", model_card(federation.config, chosen, sites, metrics))


def _save(file: Path, arrays: Arrays) -> None:
    with atomic_path(file) as temporary:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)


def choose(
    config: FederationConfig, sites: Mapping[str, SiteCard], metrics: Mapping[str, Any]
) -> dict[str, str]:
    """Choose the checkpoint of each task: ``last`` or ``best:<task>``, as ``metrics.json`` says.

    Without any validation there is no best round, and the last one is released.
    """
    chosen = {}
    for task in config.tasks:
        best, rule = f"best:{task}", config.release.checkpoint
        wanted = rule == "best" or (rule == "auto" and _can_choose(config, task, sites, metrics))
        chosen[task] = best if wanted and best in metrics["checkpoints"] else "last"
    return chosen


def _can_choose(
    config: FederationConfig,
    task: str,
    sites: Mapping[str, SiteCard],
    metrics: Mapping[str, Any],
) -> bool:
    """Apply `enough_to_choose` to the validation patients of all sites of a task."""
    space, last = config.space(task), metrics["checkpoints"]["last"]["sites"]
    labels = [space.prediction_names[output] for output in space.binary_outputs]
    names = ["patients"]
    names += [f"{of}_{label}" for label in labels for of in ("positives", "negatives")]
    totals = dict.fromkeys(names, 0)
    for site, card in sites.items():
        if task not in card.tasks:
            continue
        found = last.get(site, {}).get("val", {})
        for name in names:
            number = found.get(f"{task}/{name}")
            if number is None:  # withheld, or the site was not evaluated
                return False
            totals[name] += number
    return enough_to_choose(totals.pop("patients"), totals.values())
