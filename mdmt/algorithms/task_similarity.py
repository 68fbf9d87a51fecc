"""Aggregation by similarity (MaT-FL, Cai et al. 2023): each site gets the mean of similar sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from mdmt.algorithms.base import State, Weights, algorithms
from mdmt.algorithms.fedavg import FedAvg
from mdmt.algorithms.updates import Matrix, gram_matrix, linear_combination, weighted_means
from mdmt.blob import Arrays


@algorithms.register("task_similarity")
class TaskSimilarity(FedAvg):
    """One backbone for each site: the mean of all sites, weighted by how similar they move.

    In each round site s starts from its own θ_{r,s} and sends θ_s. With Δ_s = θ_s - θ_{r,s} over
    the optimised arrays,

        θ_{r+1,s} = Σ_t a_{s,t} θ_t,    a_{s,t} ∝ w_t · max(0, cos(Δ_s, Δ_t) - threshold),

    where Σ_t a_{s,t} = 1. If all updates have one direction, this is FedAvg. A site whose update is
    similar to no other one keeps its own backbone. A site that is not in a round keeps its
    backbone, too; a new site starts from the weighted mean Σ_t w_t θ_t.

    This is the soft grouping of Cai et al. 2023 ("Many-Task Federated Learning: A New Problem
    Setting and a Simple Baseline", CVPR workshops), with two differences: the weights w_t, and the
    updates of the round in place of the deviations from the mean model, whose cosine is always -1
    for two sites.

    Running statistics belong to the backbone of a site. Shared heads get the weighted mean. The
    release has the backbone of each site, and the weighted mean as the common one.

    The server needs every single update, and keeps one backbone per site in its memory and in each
    checkpoint. A round sends as many bytes as FedAvg. Training is that of FedAvg.
    """

    name: str = "task_similarity"
    threshold: Annotated[float, Field(ge=-1, lt=1)] = 0.0
    """Cosine of two updates at which they begin to count for each other."""

    needs: ClassVar[Literal["sum", "updates"]] = "updates"
    backbone: ClassVar[Literal["common", "server", "own"]] = "server"

    def broadcast(self, state: State, site: str) -> Arrays:
        """Return the backbone of the site; without one, the common backbone."""
        prefix = _prefix(site)
        start = len(prefix)
        own = {n[start:]: array for n, array in state.memory.items() if n.startswith(prefix)}
        return {**state.arrays, **own} if own else state.arrays

    def combine_each(self, state: State, updates: Mapping[str, Arrays], weights: Weights) -> State:
        """Make the backbone of each site, and the weighted mean."""
        means = weighted_means(state.arrays, updates, weights)
        backbone = [name for name in means if name.startswith("backbone.")]
        sites = [site for site in sorted(updates) if weights[site].keys() >= set(backbone)]
        ends = [updates[site] for site in sites]
        starts = [self.broadcast(state, site) for site in sites]
        own = np.array([weights[site][backbone[0]] for site in sites])
        shares = similarity_shares(gram_matrix(starts, ends, state.optimised), own, self.threshold)
        memory = dict(state.memory)
        for site, factors in zip(sites, shares, strict=True):
            for name in backbone:
                after = linear_combination([end[name] for end in ends], factors)
                memory[_prefix(site) + name] = after.astype(state.arrays[name].dtype)
        return state.updated(means, memory)


def similarity_shares(gram: Matrix, weights: Matrix, threshold: float) -> Matrix:
    """Return a_{s,t}.

    Parameters
    ----------
    gram : ndarray, float64, (S, S)
        ⟨Δ_s, Δ_t⟩.
    weights : ndarray, float64, (S,)
        w_t.
    threshold : float
        In [-1, 1).

    Returns
    -------
    ndarray, float64, (S, S)
        Each row sums to 1. The cosine of an update of zero is 0 to others, and 1 to itself.
    """
    norms = np.sqrt(gram.diagonal())
    lengths = np.outer(norms, norms)
    cosines = np.divide(gram, lengths, out=np.zeros_like(gram), where=lengths > 0)
    np.fill_diagonal(cosines, 1.0)
    raw = weights * np.maximum(cosines - threshold, 0.0)
    return np.asarray(raw / raw.sum(axis=1, keepdims=True))


def _prefix(site: str) -> str:
    """Return the prefix of the arrays of a site in the memory."""
    return f"{site}/"
