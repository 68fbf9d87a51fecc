"""Compare the arrays that a run starts from with those that the site builds from the recipe.

Nobody else can then choose the first model of a run, for example one whose gradient shows an image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays, fingerprint
from mdmt.config import FederationConfig
from mdmt.config.model import BY_CONTENT, content_name
from mdmt.errors import ConfigError, PolicyError, WeightsError
from mdmt.models import MDMTModel, build_model, get_arrays
from mdmt.wire import Codec

_ROUNDING = 1e-5
"""Largest accepted difference, as a fraction of the largest value of an array.

The same code draws initial values with other last digits on another processor (logarithm, cosine
and error function are approximated there), by less than a tenth of this. Within this bound a sender
can choose digits that are below the rounding error of one forward pass in float32: too little to
change what the model computes from an image.
"""
_ACCEPTED: set[tuple[str, tuple[str, ...], str]] = set()
"""What this process compared already: recipe, tasks, fingerprint of the arrays."""


def check_initial(
    federation: FederationConfig,
    tasks: tuple[str, ...],
    incoming: Arrays,
    codec: Codec,
    weights: Path,
) -> None:
    """Refuse arrays that are not the initial arrays of the recipe.

    Parameters
    ----------
    federation : FederationConfig
        The recipe.
    tasks : tuple of str
        Tasks of the site.
    incoming : mapping of str to ndarray
        Decoded arrays, with names and shapes of the model.
    codec : Codec
        The codec that encoded them.
    weights : Path
        Folder with the weights that the recipe names by their SHA-256.

    Raises
    ------
    PolicyError
        They differ, or the site cannot build its own.
    """
    key = federation.hash, tasks, fingerprint(incoming)
    if key in _ACCEPTED:
        return
    model = initial_model(federation, tasks, weights)
    for name, own in get_arrays(model, sorted(incoming)).items():
        # The encoding keeps the order of numbers: what lies between two arrays lies between them
        # after rounding to float16 too.
        slack = np.float32(_ROUNDING) * np.abs(own).max(initial=0)
        low, high = (_transmitted(codec, name, own + sign * slack) for sign in (-1, 1))
        if not np.all((low <= incoming[name]) & (incoming[name] <= high)):
            raise PolicyError(
                f"policy: recipes: {name} is not the initial value that the recipe gives; the"
                " versions of torch or timm at the server and at this site may differ"
            )
    _ACCEPTED.add(key)


def _transmitted(codec: Codec, name: str, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an array as it arrives at a site."""
    blob = codec.broadcast({name: array})
    received: NDArray[np.float32] = codec.receive(blob, len(blob))[name]
    return received


def initial_model(
    federation: FederationConfig, tasks: tuple[str, ...], weights: Path | None
) -> MDMTModel:
    """Build the backbone and the shared heads that a run starts from.

    Parameters
    ----------
    federation : FederationConfig
        The recipe.
    tasks : tuple of str
        Tasks of the site.
    weights : Path or None
        Folder with the weights that the recipe names by their SHA-256, if it does.

    Raises
    ------
    PolicyError
        The site cannot build them.
    """
    shared = tasks if federation.aggregation.heads == "shared" else ()
    named = federation.model.weights
    if named.startswith(BY_CONTENT) and weights is not None:
        of_file = federation.model.model_copy(update={"weights": str(_find(weights, named))})
        federation = federation.model_copy(update={"model": of_file})
    try:
        return build_model(federation, shared, weights=True)
    except (ConfigError, WeightsError) as error:
        raise PolicyError(
            "policy: recipes: this site cannot build the initial weights of the recipe"
            f" (model.weights: {named}); its own log says more"
        ) from error


def _find(folder: Path, named: str) -> Path:
    """Return the file in a folder that has the SHA-256 of the recipe."""
    for file in sorted(folder.glob("*")):
        if file.is_file() and content_name(str(file)) == named:
            return file
    raise PolicyError(
        f"policy: recipes: the folder weights of this site has no file with the SHA-256 of"
        f" model.weights, {named.removeprefix(BY_CONTENT)[:16]}; mdmt site approve copies it there"
    )
