"""Conflict-averse aggregation (Lu et al. 2024): the step also helps the site that gains least."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mdmt.algorithms.base import State, Weights, algorithms
from mdmt.algorithms.fedavg import FedAvg
from mdmt.algorithms.updates import Matrix, gram_matrix, linear_combination, weighted_means
from mdmt.blob import Arrays

_ZERO = 1e-4
"""‖U_x‖ below this fraction of ‖Δ̄‖ counts as zero: its direction is then not known."""


@algorithms.register("conflict_averse")
class ConflictAverse(FedAvg):
    """One backbone for all sites; the server solves a small convex problem over their updates.

    With Δ_s = θ_s - θ_r over the optimised arrays of the backbone and Δ̄ = Σ_s w_s Δ_s, the step is

        d = (Δ̄ + c·‖Δ̄‖·U_x/‖U_x‖) / (1 + c),    U_x = Σ_s x_s Δ_s,

    where x minimises ⟨U_x, Δ̄⟩ + c·‖Δ̄‖·‖U_x‖ over x_s ≥ 0, Σ_s x_s = 1. Before the division, d is
    the vector within a distance of c·‖Δ̄‖ from Δ̄ whose smallest ⟨Δ_s, d⟩ is largest (CAGrad, Liu et
    al. 2021). FedHCA² ("Towards Hetero-Client Federated Multi-Task Learning", CVPR 2024) uses it
    for the encoders of its clients. Three things differ here: Δ̄ has the weights w_s; the division
    by 1 + c (theirs is by 1 + c²) gives the step of FedAvg if all updates are equal, and never a
    longer one; and there are no learned weights by site and layer. If U_x is zero, d is Δ̄.

    All other arrays (running statistics, shared heads) get the weighted mean.

    The server needs every single update, and holds all of them in memory. Messages and training are
    those of FedAvg.
    """

    name: str = "conflict_averse"
    c: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Largest distance of the step from the mean update, as a fraction of its length."""

    needs: ClassVar[Literal["sum", "updates"]] = "updates"

    def combine_each(self, state: State, updates: Mapping[str, Arrays], weights: Weights) -> State:
        """Take the step d, and average all other arrays."""
        optimised = state.optimised
        others = [name for name in state.arrays if name not in set(optimised)]
        arrays = weighted_means(others, updates, weights)
        sites = [s for s in sorted(updates) if weights[s].keys() >= set(optimised)]
        ends = [updates[site] for site in sites]
        own = np.array([weights[site][optimised[0]] for site in sites])
        gram = gram_matrix([state.arrays] * len(sites), ends, optimised)
        factors = step_factors(gram, own, self.c)
        for name in optimised:  # θ_r + Σ f_s·(θ_s - θ_r)
            before = state.arrays[name]
            every = [before, *(end[name] for end in ends)]
            after = linear_combination(every, [1 - factors.sum(), *factors])
            arrays[name] = after.astype(before.dtype)
        return state.updated(arrays)


def step_factors(gram: Matrix, weights: Matrix, c: float) -> Matrix:
    """Return f with d = Σ_s f_s Δ_s.

    Parameters
    ----------
    gram : ndarray, float64, (S, S)
        ⟨Δ_s, Δ_t⟩.
    weights : ndarray, float64, (S,)
        w_s, with the sum 1.
    c : float
        In (0, 1).

    Returns
    -------
    ndarray, float64, (S,)
    """
    from scipy.optimize import minimize  # slow to import, and a site does not need it

    length = _norm(weights, gram)
    if length == 0:
        return weights
    gram = gram / length**2  # so ‖Δ̄‖ = 1, and the tolerances fit updates of any length
    toward = gram @ weights

    def objective(x: Matrix) -> tuple[float, Matrix]:
        norm = _norm(x, gram) + 1e-9  # at ‖U_x‖ = 0 there must be a gradient too
        return float(toward @ x + c * norm), toward + c * (gram @ x) / norm

    ones = np.ones(len(weights))
    found = minimize(
        objective,
        ones / len(weights),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(weights),
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1, "jac": lambda x: ones},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    x = np.clip(found.x, 0, 1)
    norm = _norm(x, gram)
    return weights if norm < _ZERO else (weights + x * c / norm) / (1 + c)


def _norm(x: Matrix, gram: Matrix) -> float:
    """Return ‖U_x‖."""
    return math.sqrt(max(float(x @ gram @ x), 0.0))
