"""How much privacy training spends: (ε, δ) by Rényi differential privacy.

Two training splits are neighbours if one has one patient more. The accountant is that of Opacus
(Mironov, Talwar and Zhang 2019, for Poisson sampling; Balle et al. 2020, from Rényi to ε).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.config.site import Policy
from mdmt.errors import ConfigError

DELTA: float = Policy.model_fields["delta"].default
"""δ of a site that sets none."""
_ORDERS = [*(1 + x / 10 for x in range(1, 100)), *range(12, 64), 96, 128, 256, 512, 1024]
"""Rényi orders that ε is minimised over."""


class Mechanism(NamedTuple):
    """`steps` of DP-SGD: noise σ times the clipping norm, patients sampled with probability q."""

    sample_rate: float
    noise_multiplier: float
    steps: int


def private_steps(config: FederationConfig) -> int:
    """Return the steps of a round with `privacy.dp`.

    With `local_epochs` a pass is ⌈1/q⌉ steps, in which a patient is drawn once on average. The
    number depends on no data.
    """
    training, dp = config.training, config.privacy.dp
    assert dp is not None, "the caller asked for it"
    if training.local_steps is not None:
        return training.local_steps
    return (training.local_epochs or 1) * math.ceil(1 / dp.sample_rate)


def recipe_mechanism(config: FederationConfig) -> Mechanism | None:
    """Return all training of a site that takes part in every round; None without `privacy.dp`."""
    dp = config.privacy.dp
    if dp is None:
        return None
    steps = config.training.rounds * private_steps(config)
    return Mechanism(dp.sample_rate, dp.noise_multiplier, steps)


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Return ε of all `mechanisms` on the same patients, one after the other.

    Parameters
    ----------
    mechanisms : iterable of Mechanism
    delta : float
        δ, in (0, 1).

    Returns
    -------
    float
        At least 0; infinite if the noise is too small for a bound.

    Raises
    ------
    ConfigError
        Opacus is not installed.
    """
    steps: Counter[tuple[float, float]] = Counter()
    for mechanism in mechanisms:
        steps[mechanism[:2]] += mechanism.steps
    if not steps:
        return 0.0
    spent = sum(n * _rdp_of_a_step(q, sigma) for (q, sigma), n in sorted(steps.items()))
    found, _ = _opacus().get_privacy_spent(orders=_ORDERS, rdp=spent, delta=delta)
    return max(0.0, float(found))


@lru_cache(maxsize=64)
def _rdp_of_a_step(sample_rate: float, noise_multiplier: float) -> NDArray[np.float64]:
    """Return the Rényi divergence of one step at each of `_ORDERS`. Steps add up."""
    found = _opacus().compute_rdp(
        q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=_ORDERS
    )
    return np.asarray(found)


def _opacus() -> ModuleType:
    """Import the accountant. It takes seconds, and most sites do not need it."""
    try:
        from opacus.accountants.analysis import rdp
    except ImportError as error:
        raise ConfigError('ε needs Opacus: pip install "mdmt[dp]"') from error
    return rdp  # type: ignore[no-any-return]


def describe_cost(config: FederationConfig, delta: float = DELTA) -> str | None:
    """Return in a phrase what the recipe spends at each site; None without `privacy.dp`."""
    mechanism = recipe_mechanism(config)
    if mechanism is None:
        return None
    try:
        spent = f"ε = {epsilon([mechanism], delta):.2f} at δ = {delta:g}"
    except ConfigError as error:
        spent = f"ε is unknown, because {error}"
    q, sigma, steps = mechanism
    how = f"{steps} steps, sampling probability {q:g}, noise multiplier {sigma:g}"
    return f"{spent} for each training patient ({how})"
