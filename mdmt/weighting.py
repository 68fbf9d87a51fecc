"""The weights of sites: w_s of the backbone, c_{s,t} of the task losses.

The server computes them. Under secure aggregation every site computes them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from mdmt.config import FederationConfig
from mdmt.errors import RegistrationError
from mdmt.models import head_task
from mdmt.shares import limit_shares


class Labelled(Protocol):
    """The counts of a site: its site card, or what it signed for secure aggregation."""

    @property
    def name(self) -> str:
        """Name of the site."""

    @property
    def tasks(self) -> Collection[str]:
        """Names of its tasks."""

    def labels(self, task: str) -> int | None:
        """Return n_{s,t} of the training split; None if withheld."""


def task_shares(config: FederationConfig, cards: Iterable[Labelled]) -> dict[str, dict[str, float]]:
    """Return a_{s,t} = (λ_t/Λ)·(n_{s,t}/n_t): the share of site s and task t in the objective.

    Parameters
    ----------
    config : FederationConfig
    cards : iterable of Labelled
        The participating sites. n counts their training labels, Λ sums over their tasks.

    Returns
    -------
    dict of str to dict of str to float
        Site → task → a_{s,t}; all entries sum to 1.
    """
    counts = {card.name: {task: _labels(card, task) for task in card.tasks} for card in cards}
    totals: dict[str, int] = {}
    for tasks in counts.values():
        for task, n in tasks.items():
            totals[task] = totals.get(task, 0) + n
    lambdas = {task: config.tasks[task].weight for task, n in totals.items() if n}
    whole = sum(lambdas[task] for task in sorted(lambdas))
    return {
        site: {task: lambdas[task] / whole * n / totals[task] for task, n in tasks.items() if n}
        for site, tasks in counts.items()
    }


def site_weights(config: FederationConfig, cards: Iterable[Labelled]) -> dict[str, float]:
    """Return w_s of the sites whose updates are averaged. The weights sum to 1.

    ``tasks``: w_s = Σ_t a_{s,t}, so that the federation minimises the pooled objective (P2).
    ``examples``: w_s ∝ Σ_t n_{s,t}. ``uniform``: equal weights. No weight is above
    `aggregation.max_weight` (`limit_shares`).
    """
    cards = list(cards)
    weighting = config.aggregation.weighting
    if weighting == "tasks":
        raw = {site: sum(shares.values()) for site, shares in task_shares(config, cards).items()}
    elif weighting == "examples":
        raw = {card.name: float(sum(_labels(card, t) for t in card.tasks)) for card in cards}
    else:
        raw = {card.name: 1.0 for card in cards}
    total = sum(raw[site] for site in sorted(raw))
    shares = {site: value / total for site, value in raw.items()}
    return limit_shares(shares, config.aggregation.max_weight)


def array_weights(
    config: FederationConfig, cards: Collection[Labelled], names: Iterable[str]
) -> dict[str, dict[str, float]]:
    """Return the weight of each site in the mean of each array: site → array → weight.

    Backbone arrays have the `site_weights`. Arrays of a shared head have the shares of its task,
    over the sites with labels of this task. Both are limited by `aggregation.max_weight`; a head of
    too few sites gets equal weights. The weights of an array sum to 1. If no site has a training
    label of a task, the arrays of its head have no weights.
    """
    whole = site_weights(config, cards)
    uniform = config.aggregation.weighting == "uniform"
    # With uniform weights a site can withhold its counts.
    shares = {} if uniform else task_shares(config, cards)
    by_task: dict[str | None, dict[str, float]] = {}
    for task in (None, *config.tasks):
        raw = {
            card.name: whole[card.name]
            if task is None or uniform
            else shares[card.name].get(task, 0.0)
            for card in cards
            if task is None or task in card.tasks
        }
        total = sum(raw.values())
        own = {site: weight / total for site, weight in raw.items() if weight}
        by_task[task] = limit_shares(own, config.aggregation.max_weight)
    weights: dict[str, dict[str, float]] = {card.name: {} for card in cards}
    for name in names:
        for site, weight in by_task[head_task(name)].items():
            weights[site][name] = weight
    return weights


def loss_coefficients(
    config: FederationConfig, cards: Mapping[str, Labelled]
) -> dict[str, dict[str, float]]:
    """Return c_{s,t}, which is fixed at registration. The coefficients of a site sum to 1.

    ``tasks``: c_{s,t} = a_{s,t}/w_s. Otherwise c_{s,t} = λ_t / (sum of λ over the site's tasks).
    """
    if config.aggregation.weighting == "tasks":
        raw = task_shares(config, cards.values())
    else:
        raw = {
            name: {task: config.tasks[task].weight for task in card.tasks}
            for name, card in cards.items()
        }
    for site, shares in raw.items():
        if not shares:
            raise RegistrationError(f"site {site} has no labelled training sample")
    return {
        site: {task: value / sum(shares.values()) for task, value in shares.items()}
        for site, shares in raw.items()
    }


def _labels(card: Labelled, task: str) -> int:
    """Return n_{s,t}, which every weighting except ``uniform`` needs."""
    labels = card.labels(task)
    if labels is None:
        raise RegistrationError(f"site {card.name} withholds how many labels of {task} it has")
    return labels
