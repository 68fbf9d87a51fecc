"""The model card of a release, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mdmt.config import FederationConfig
from mdmt.files import render
from mdmt.messages import SiteCard
from mdmt.privacy.accounting import describe_cost
from mdmt.results.verdicts import gain
from server.run import versions


def model_card(
    config: FederationConfig,
    chosen: Mapping[str, str],
    sites: Mapping[str, SiteCard],
    metrics: Mapping[str, Any],
) -> str:
    """Return the model card.

    Parameters
    ----------
    config : FederationConfig
    chosen : mapping of str to str
        Task → the checkpoint that is released.
    sites : mapping of str to SiteCard
        Every site that took part.
    metrics : mapping
        The content of ``metrics.json``.
    """
    places = [(card, task) for card in sites.values() for task in card.tasks]
    return render(
        "server",
        "model_card.md",
        config=config,
        origin=_origin(config.model.weights),
        sites=len(sites),
        below=[
            line
            for card, task in places
            for line in _below(config, chosen[task], metrics, card.name, task)
        ],
        models=[*metrics["references"], "last", "best"],
        results=[_row(config, card, task, metrics) for card, task in places],
        privacy=describe_cost(config),
        released={
            task: f"{metrics['checkpoints'][name]['round']} ({name.partition(':')[0]})"
            for task, name in chosen.items()
        },
        versions=versions(),
    )


def _below(
    config: FederationConfig,
    chosen: str,
    metrics: Mapping[str, Any],
    site: str,
    task: str,
) -> Iterator[str]:
    """Yield the references that the released model of a task does not reach at a site."""
    space, released = config.space(task), metrics["checkpoints"][chosen]
    key = f"{task}/{space.primary}"
    for name, entry in metrics["references"].items():
        found = gain(released, metrics["references"], name, site, key, space.primary_is_better_when)
        if found.is_loss:
            values = [_result(_test(of, site), task, space.primary) for of in (released, entry)]
            text = f"{task} at {site}: {space.primary} {values[0]}, {name} {values[1]}"
            yield f"{text} (difference {found.describe()})"


def _test(entry: Mapping[str, Any], site: str) -> Mapping[str, Any] | None:
    """Return the test metrics of an entry of ``metrics.json`` at a site, if it has any."""
    found: Mapping[str, Any] | None = entry.get("sites", {}).get(site, {}).get("test")
    return found


def _row(
    config: FederationConfig, card: SiteCard, task: str, metrics: Mapping[str, Any]
) -> list[str]:
    """Return a row of the table of results: counts, then the primary metric of every model."""
    checkpoints, missing = metrics["checkpoints"], metrics.get("missing", {})
    metric, best = config.space(task).primary, f"best:{task}"
    models = {name: (name, entry) for name, entry in metrics["references"].items()}
    models["last"] = "last", checkpoints["last"]
    models["best"] = best, checkpoints.get(best, {})
    examples = (_test(checkpoints["last"], card.name) or {}).get(f"{task}/examples", 0)
    images = "-" if card.name in missing.get("last", {}) else _count(examples)
    cells = [
        "missing: the site was not tested"
        if card.name in missing.get(name, {})
        else _result(_test(entry, card.name), task, metric)
        for name, entry in models.values()
    ]
    return [card.name, task, _count(card.labels(task)), images, metric, *cells]


def _origin(weights: str) -> str:
    """Describe the initial weights, without the folder of a file."""
    if weights == "none":
        return "random"
    return f"{weights}" if weights in ("timm", "offline") else f"{Path(weights).name}"


def _count(number: int | None) -> str:
    return "withheld" if number is None else str(number)


def _result(test: Mapping[str, Any] | None, task: str, metric: str) -> str:
    if test is None:
        return "-"
    value, low, high = (test.get(f"{task}/{metric}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "undefined" if test.get(f"{task}/examples", 0) is not None else "withheld"
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{interval}"
