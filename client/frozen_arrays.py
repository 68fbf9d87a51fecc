"""The frozen arrays at a site: built from the recipe, or received once and kept on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from client.initial_arrays import check_initial, initial_model
from mdmt.blob import Arrays, unpack
from mdmt.config import FederationConfig, SiteConfig, WireConfig, parse_recipe
from mdmt.config.model import BY_CONTENT
from mdmt.errors import PolicyError
from mdmt.files import atomic_path
from mdmt.frozen import MISSING, FrozenArrays
from mdmt.messages import EvaluateOrder, ReferenceOrder, TrainOrder
from mdmt.models import get_frozen_arrays
from mdmt.wire import Codec, largest_message

_HELD: dict[tuple[str, str], FrozenArrays] = {}
"""The last ones that this process used, by recipe and digest."""


def frozen_digest(federation: FederationConfig, weights: Path) -> str | None:
    """Return the SHA-256 of the frozen arrays that a site builds from the recipe.

    Parameters
    ----------
    federation : FederationConfig
    weights : Path
        Folder with the weights that the recipe names by their SHA-256.

    Returns
    -------
    str or None
        None if there are none, or if the site cannot build them: the server then sends them.
    """
    if federation.model.trainable == "all":
        return None
    built = _built(federation, weights)
    return None if built is None else built.digest


def frozen_arrays(
    site: SiteConfig,
    federation: FederationConfig,
    order: TrainOrder | EvaluateOrder | ReferenceOrder,
    sizes: Mapping[str, int],
    sent: bytes,
    weights: Path,
) -> Arrays:
    """Return the frozen arrays that an order names.

    Parameters
    ----------
    site : SiteConfig
    federation : FederationConfig
        The recipe.
    order : TrainOrder, EvaluateOrder or ReferenceOrder
    sizes : mapping of str to int
        Bytes of each frozen array of the model.
    sent : bytes
        The encoded arrays, if the server sent them. They are kept for the next orders.
    weights : Path
        See `frozen_digest`.

    Raises
    ------
    PolicyError
        The site has not got them, or those that were sent are others than the order or the recipe
        says.
    """
    if (order.frozen is not None) != bool(sizes):
        raise PolicyError("the order must name the frozen arrays of the recipe, if there are any")
    if order.frozen is None:
        return {}
    key = federation.hash, order.frozen
    file = site.state_root / federation.name / order.run / f"frozen-{federation.hash}.safetensors"
    if sent:
        found = _received(sent, sizes)
        if found.digest != order.frozen:
            raise PolicyError("the frozen arrays are others than those that the order names")
        if site.policy.recipes is not None:
            check_initial(federation, (), found.arrays, Codec(WireConfig()), weights)
        with atomic_path(file) as temporary:
            temporary.write_bytes(sent)
    elif key in _HELD:
        found = _HELD[key]
    else:
        candidates = _stored(file), _built(federation, weights)
        fitting = [c for c in candidates if c is not None and c.digest == order.frozen]
        if not fitting:
            raise PolicyError(MISSING)
        found = fitting[0]
    if found.arrays.keys() != sizes.keys():
        raise PolicyError("the frozen arrays are not those of the model")
    _HELD.clear()
    _HELD[key] = found
    return found.arrays


def _received(sent: bytes, sizes: Mapping[str, int]) -> FrozenArrays:
    limit = largest_message(sizes)
    if len(sent) > limit:
        raise PolicyError(f"the frozen arrays have {len(sent)} bytes, at most {limit} are expected")
    arrays = unpack(sent)
    if arrays.keys() != sizes.keys():
        raise PolicyError("the frozen arrays are not those of the model")
    return FrozenArrays(arrays)


def _stored(file: Path) -> FrozenArrays | None:
    """Return the arrays that were received earlier; None if there is no intact file."""
    try:
        return FrozenArrays(unpack(file.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def _built(federation: FederationConfig, weights: Path) -> FrozenArrays | None:
    """Return the arrays of the recipe; None if the site cannot build them."""
    by_content = federation.model.weights.startswith(BY_CONTENT)
    try:
        return _of_recipe(federation.recipe, weights if by_content else None)
    except PolicyError:
        return None


@lru_cache(maxsize=1)
def _of_recipe(recipe: str, weights: Path | None) -> FrozenArrays:
    federation = parse_recipe(recipe)
    model = initial_model(federation, (), weights)
    return FrozenArrays(get_frozen_arrays(model, federation.aggregation))
