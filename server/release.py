"""Write the release: the files that `mdmt predict` needs, and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mdmt.files import atomic_path, render, write_json, write_text
from mdmt.messages import SiteCard
from mdmt.privacy.accounting import describe_cost
from mdmt.releases import RELEASE_FORMAT, backbone_file
from server.federation import Federation
from server.run import RunDirectory, versions


def write_release(
    run: RunDirectory,
    federation: Federation,
    sites: Mapping[str, SiteCard],
    metrics: Mapping[str, Any],
) -> None:
    """Write the best backbone of each task (the last without validation) and a model card.

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
    folder, best = run.folder / "release", federation.selection.best
    last = federation.config.training.rounds
    rounds = {t: best[t].round if t in best else last for t in federation.config.tasks}
    for number in set(rounds.values()):
        arrays = federation.arrays_after(number, run)
        with atomic_path(folder / backbone_file(number)) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
    write_json(
        folder / "release.json",
        {
            "format": RELEASE_FORMAT,
            "federation": federation.config.name,
            "run": federation.run_id,
            "hash": federation.config.hash,
            "recipe": federation.config.model_dump(mode="json", exclude={"sites"}),
            "rounds": rounds,
            "versions": versions(),
        },
    )
    write_text(folder / "README.md", _model_card(federation, rounds, sites, metrics))


def _model_card(
    federation: Federation,
    rounds: Mapping[str, int],
    sites: Mapping[str, SiteCard],
    metrics: Mapping[str, Any],
) -> str:
    """Return the model card as Markdown."""
    config, results = federation.config, []
    checkpoints, missing = metrics["checkpoints"], metrics.get("missing", {})
    for card in sites.values():
        for task in card.tasks:
            name = f"best:{task}" if f"best:{task}" in checkpoints else "last"
            if card.name in missing.get(name, {}):
                images, result = "-", "missing: the site was not tested"
            else:
                test = checkpoints[name]["sites"][card.name].get("test", {})
                images = _count(test.get(f"{task}/examples", 0))
                result = _result(test, task, config.space(task).primary)
            results.append((card.name, task, _count(card.labels(task)), images, result))
    return render(
        "server",
        "model_card.md",
        config=config,
        origin=_origin(config.model.weights),
        sites=len(sites),
        results=results,
        privacy=describe_cost(config),
        rounds=rounds,
        versions=versions(),
    )


def _origin(weights: str) -> str:
    """Describe the initial weights, without the folder of a file."""
    if weights == "none":
        return "random"
    return f"{weights}" if weights in ("timm", "offline") else f"{Path(weights).name}"


def _count(number: int | None) -> str:
    return "withheld" if number is None else str(number)


def _result(test: Mapping[str, Any], task: str, metric: str) -> str:
    value, low, high = (test.get(f"{task}/{metric}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "undefined" if test.get(f"{task}/examples", 0) is not None else "withheld"
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{metric} {value:.3f}{interval}"
