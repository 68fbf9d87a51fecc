"""Which parts of a model are broadcast, uploaded, optimised, or local to a site.

A name is a key of ``model.state_dict()``: ``backbone.<…>`` or ``heads.<task>.<…>``. Tensors that
`model.trainable` freezes keep their initial values: they are not sent in a round, nor optimised.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt.config import AggregationConfig
from mdmt.errors import StateError
from mdmt.models.heads import MDMTModel
from mdmt.models.norms import norm_modules, norm_tensors
from mdmt.models.trainable import frozen_tensors

Part = Literal["all", "backbone", "heads"]
"""The part of a model that a round, or a phase of it, trains."""
_PLAIN = (torch.float32, torch.float64)
"""Dtypes of tensors that NumPy can write to."""


def head_task(name: str) -> str | None:
    """Return the task of the head that `name` belongs to; None for the backbone."""
    part, _, rest = name.partition(".")
    return rest.partition(".")[0] if part == "heads" else None


def broadcast_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of float tensors that are sent to a site in each round.

    These are the backbone without its frozen tensors, and shared heads. Local normalisation layers
    are sent too, because a site starts from their first values.
    """
    frozen = frozen_names(model, aggregation)
    return tuple(
        name
        for name, tensor in sorted(model.state_dict().items())
        if tensor.is_floating_point()
        and name not in frozen
        and (head_task(name) is None or aggregation.heads == "shared")
    )


def frozen_names(model: MDMTModel, aggregation: AggregationConfig) -> frozenset[str]:
    """Return the names of the tensors of the backbone that keep their initial values in a run.

    Beside a partly frozen backbone, frozen normalisation layers are among them. If the whole
    backbone trains, they count as part of it.
    """
    frozen = frozen_tensors(model.backbone)
    if frozen and aggregation.norm_layers == "frozen":
        frozen |= norm_tensors(model.backbone)
    return frozenset(f"backbone.{name}" for name in frozen)


def uploaded_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names that a site sends back: without local normalisation layers."""
    home = _local_norms(model, aggregation)
    return tuple(name for name in broadcast_names(model, aggregation) if name not in home)


def optimised_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of uploaded backbone arrays that gradients change.

    These exclude running statistics and frozen normalisation layers.
    """
    # `requires_grad` depends on the last use of the model, so it is not used here.
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if aggregation.norm_layers == "frozen":
        parameters -= norm_tensors(model)
    return tuple(
        name
        for name in uploaded_names(model, aggregation)
        if name in parameters and head_task(name) is None
    )


def averaged_statistics(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of running statistics that change in training and are averaged."""
    if aggregation.norm_layers != "average":
        return ()
    buffers = {name for name, _ in model.named_buffers()} & norm_tensors(model)
    return tuple(name for name in uploaded_names(model, aggregation) if name in buffers)


def local_tensors(
    model: MDMTModel, aggregation: AggregationConfig, *, whole: bool = False
) -> dict[str, Tensor]:
    """Return copies of the tensors that a site keeps: local heads and normalisation layers.

    Parameters
    ----------
    model : MDMTModel
    aggregation : AggregationConfig
    whole : bool
        Return all tensors, for a site with a backbone of its own.

    Returns
    -------
    dict of str to Tensor
        On the CPU, with the integer counters of normalisation layers.
    """
    home = _local_norms(model, aggregation)
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in sorted(model.state_dict().items())
        if whole or name in home or (head_task(name) is not None and aggregation.heads == "local")
    }


def get_arrays(
    model: MDMTModel, names: Iterable[str], *, copy: bool = True
) -> dict[str, NDArray[np.float32]]:
    """Return the named float tensors as float32 arrays.

    Parameters
    ----------
    model : MDMTModel
    names : iterable of str
    copy : bool
        If False, later training changes arrays that needed no conversion.
    """
    state = model.state_dict()
    return {
        name: state[name].detach().to("cpu", torch.float32, copy=copy).contiguous().numpy()
        for name in names
    }


def get_frozen_arrays(
    model: MDMTModel, aggregation: AggregationConfig
) -> dict[str, NDArray[np.float32]]:
    """Return the frozen float tensors as float32 arrays; empty if the whole backbone trains."""
    frozen, state = frozen_names(model, aggregation), model.state_dict()
    return get_arrays(model, sorted(n for n in frozen if state[n].is_floating_point()))


def set_training_mode(
    model: MDMTModel, norm_layers: Literal["average", "local", "frozen"], part: Part = "all"
) -> None:
    """Set the model to training mode, and fix which of its parameters get a gradient.

    What is frozen computes as in evaluation: without dropout, with its running statistics, which it
    keeps. Each call undoes the former one.

    Parameters
    ----------
    model : MDMTModel
    norm_layers : {"average", "local", "frozen"}
        ``frozen`` freezes all normalisation layers.
    part : {"all", "backbone", "heads"}
        The part that trains now, without the tensors that `model.trainable` freezes.
    """
    model.train()
    frozen = frozen_tensors(model.backbone)
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(part != "heads" and name not in frozen)
    for parameter in model.heads.parameters():
        parameter.requires_grad_(part != "backbone")
    if frozen or part == "heads":
        for module in model.backbone.modules():
            parameters = [*module.parameters()]
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
    if norm_layers == "frozen":
        for module in norm_modules(model).values():
            module.eval()
            module.requires_grad_(False)


def _local_norms(model: MDMTModel, aggregation: AggregationConfig) -> set[str]:
    """Return the names of all tensors of normalisation layers that stay at the site."""
    if aggregation.norm_layers != "local":
        return set()
    return norm_tensors(model) - frozen_names(model, aggregation)


@torch.no_grad()
def set_arrays(model: MDMTModel, values: Mapping[str, Tensor | NDArray[np.floating]]) -> None:
    """Copy tensors or arrays into the live model, whatever its device and float dtype.

    Raises
    ------
    StateError
        A name, shape or kind of number is not the model's; nothing was changed.
    """
    state = model.state_dict()
    for name, value in values.items():
        if name not in state:
            raise StateError(f"{name} is not a tensor of this model")
        live = state[name]
        if tuple(value.shape) != tuple(live.shape):
            raise StateError(f"{name} has shape {list(value.shape)}, expected {list(live.shape)}")
        empty = np.empty(0, value.dtype) if isinstance(value, np.ndarray) else value
        dtype = _tensor(empty).dtype
        if dtype.is_floating_point != live.is_floating_point():
            raise StateError(f"{name} is {dtype}, expected {live.dtype}")
    for name, value in values.items():
        live = state[name]
        if isinstance(value, np.ndarray) and live.device.type == "cpu" and live.dtype in _PLAIN:
            np.copyto(live.numpy(), value)  # torch would first copy a read-only array
        else:
            live.copy_(_tensor(value))


def _tensor(value: Tensor | NDArray[np.floating]) -> Tensor:
    """Convert to a tensor. Copy only read-only or strided arrays, which torch does not accept."""
    if isinstance(value, Tensor):
        return value
    return torch.from_numpy(np.require(value, requirements=("C", "W")))
