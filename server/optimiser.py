"""The state of a server optimiser, as arrays for a checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from flwr.serverapp import strategy
from numpy.typing import NDArray

from server.strategy import FedAdam, FedYogi, SiteAverage

__all__ = ["load_optimiser_arrays", "optimiser_arrays"]


def optimiser_arrays(built: SiteAverage, names: Iterable[str]) -> dict[str, NDArray[np.floating]]:
    """Server-optimiser state for a checkpoint: ``m.<name>``, ``v.<name>``.

    Parameters
    ----------
    built : SiteAverage
    names : iterable of str
        The trainable arrays, in the order they were given to `configure_train`.
    """
    if isinstance(built, strategy.FedAvgM):
        vector = built.momentum_vector or []
        return {f"m.{name}": value for name, value in zip(names, vector, strict=False)}
    state = {"m": getattr(built, "m_t", None), "v": getattr(built, "v_t", None)}
    return {
        f"{key}.{name}": value
        for key, arrays in state.items()
        for name, value in (arrays or {}).items()
    }


def load_optimiser_arrays(
    built: SiteAverage, state: Mapping[str, NDArray[np.floating]], names: Iterable[str]
) -> None:
    """Put `optimiser_arrays` of the same `names` back."""
    if not state:
        return
    m = {name: state[f"m.{name}"] for name in names}
    if isinstance(built, strategy.FedAvgM):
        built.momentum_vector = list(m.values())
    elif isinstance(built, FedAdam | FedYogi):
        built.m_t = m
        built.v_t = {name: state[f"v.{name}"] for name in m}
