"""The bound on the length of updates: one party must not move the model as it likes.

An update is compared with the updates of this and the last rounds, by the norm of its difference
from the sent arrays, divided by √steps: a site with more images takes more steps, and the noise of
its gradients adds up like a random walk. The reference is the larger of two lower medians: of this
round, if there are at least two updates, and of the accepted updates of the last rounds. With a
majority of honest sites it is not above the largest honest norm, whatever the others send.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from mdmt.algorithms import State
from mdmt.blob import Arrays
from mdmt.config import FederationConfig
from mdmt.messages import SiteCard
from mdmt.training import steps_per_round
from server.aggregation import STATISTICS, Norms, group

_ROUNDS = 3
"""Former rounds whose updates count."""
_SMALL, _SMALL_STATISTICS = 0.005, 1.0
"""An update below this fraction of the norm of the sent arrays is never large: if the only other
site has a handful of images, its update says little. Running statistics change much at first."""
_ALONE = 100.0
"""Largest update as a multiple of the sent arrays, if there is no other update to compare with."""

History = list[dict[str, Norms]]
"""For each of the last rounds: site → norms of its accepted update, divided by √steps."""


@dataclass(frozen=True)
class Bounded:
    """The updates of a round that are too large.

    Attributes
    ----------
    reasons : dict of str to str
        Site → why its update is too large.
    factors : dict of str to dict
        Site → group of arrays → factor in (0, 1) that makes the update short enough.
    """

    reasons: dict[str, str] = field(default_factory=dict)
    factors: dict[str, Norms] = field(default_factory=dict)


def find_large(
    config: FederationConfig, scaled: Mapping[str, Norms], state: State, history: History
) -> Bounded:
    """Find the updates that `aggregation.norm_bound` does not allow.

    Parameters
    ----------
    config : FederationConfig
    scaled : mapping of str to dict
        Site → norms of its update, divided by √steps (`per_root_step`).
    state : State
        The last state. Its arrays are read only if an update is suspicious.
    history : list of dict
        Accepted norms of the last rounds.
    """
    found, bound = Bounded(), config.aggregation.norm_bound
    if bound is None:
        return found
    limits: dict[str, float] = {}
    for site, own in scaled.items():
        for key, length in own.items():
            reference = _reference(key, scaled, history)
            if reference is not None and length <= bound * reference:
                continue
            if key not in limits:
                limits[key] = _limit(key, bound, reference, _length(state, key))
            if length > limits[key]:
                found.factors.setdefault(site, {})[key] = limits[key] / length
    for site, factors in found.factors.items():
        factor, key = min((factor, key) for key, factor in factors.items())
        found.reasons[site] = (
            f"its update of the {key} is {1 / factor:.3g} times as long as"
            f" aggregation.norm_bound {bound:g} allows"
        )
    return found


def per_root_step(
    config: FederationConfig, cards: Mapping[str, SiteCard], found: Mapping[str, Norms]
) -> dict[str, Norms]:
    """Divide the norms of each update by √steps of a round at its site.

    A site that withholds its images counts as the smallest site.
    """
    images = {site: cards[site].images.get("train") for site in found}
    fewest = min((n for n in images.values() if n), default=1)
    steps = {site: steps_per_round(config.training, n or fewest) for site, n in images.items()}
    return {
        site: {key: length / math.sqrt(steps[site]) for key, length in own.items()}
        for site, own in found.items()
    }


def remember(
    history: History, scaled: Mapping[str, Norms], bounded: Bounded, *, clip: bool
) -> History:
    """Return the history for the next round: clipped norms count as they were used."""
    accepted = {
        site: {key: n * bounded.factors.get(site, {}).get(key, 1.0) for key, n in own.items()}
        for site, own in scaled.items()
        if clip or site not in bounded.reasons
    }
    return [*history, accepted][-_ROUNDS:]


def shorten(
    update: Arrays, sent: Arrays, factors: Mapping[str, float], optimised: Iterable[str]
) -> Arrays:
    """Return θ_r + factor·(θ_s - θ_r) in the groups that have a factor."""
    optimised, result = set(optimised), dict(update)
    for name, array in update.items():
        factor = factors.get(group(name, optimised))
        if factor is not None:
            base = sent[name].astype(np.float64)
            result[name] = (base + factor * (array - base)).astype(array.dtype)
    return result


def _reference(key: str, scaled: Mapping[str, Norms], history: History) -> float | None:
    """Return the length that updates of a group are compared with; None if there is none.

    An update of length 0 does not count: the site has no label for this head.
    """
    now = [n for own in scaled.values() if (n := own.get(key))]
    before = [n for line in history for own in line.values() if (n := own.get(key))]
    medians = [_lower_median(now)] if len(now) > 1 else []
    medians += [_lower_median(before)] if before else []
    return max(medians, default=None)


def _limit(key: str, bound: float, reference: float | None, length: float) -> float:
    """Return the largest allowed length of an update; `length` is that of the sent arrays."""
    if reference is None:
        return _ALONE * max(length, 1.0)
    small = _SMALL_STATISTICS if key == STATISTICS else _SMALL
    return max(bound * reference, small * length)


def _length(state: State, key: str) -> float:
    """Return the norm of the arrays of a group."""
    own = [array for name, array in state.arrays.items() if group(name, state.optimised) == key]
    return math.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in own))


def _lower_median(values: list[float]) -> float:
    """Return the median; of two middle values the smaller one, so that half cannot raise it."""
    return sorted(values)[(len(values) - 1) // 2]
