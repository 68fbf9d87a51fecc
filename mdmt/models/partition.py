"""Which parts of a model are broadcast, uploaded, optimised, or local to a site.

A name is a key of ``model.state_dict()``: ``backbone.<…>`` or ``heads.<task>.<…>``. Normalisation
layers are found by the type of a module, never by its name.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import timm.layers
import torch
import torchvision
from numpy.typing import NDArray
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn

from mdmt.config import AggregationConfig
from mdmt.errors import StateError
from mdmt.models.heads import MDMTModel

_TIMM_FILES = {"evo_norm", "filter_response_norm", "inplace_abn", "norm", "norm_act"}
"""Files of `timm.layers` whose classes are normalisation layers, often not derived from torch's."""


def _is_norm(kind: Any) -> bool:
    return isinstance(kind, type) and kind.__module__.rpartition(".")[2] in _TIMM_FILES


NORM_TYPES: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # every BatchNorm, SyncBatchNorm and InstanceNorm
    *(nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, torchvision.ops.FrozenBatchNorm2d),
    *(kind for kind in vars(timm.layers).values() if _is_norm(kind)),
    GlobalResponseNorm,
)

_PLAIN = (torch.float32, torch.float64)
"""Dtypes of tensors that NumPy can write to."""


def norm_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the normalisation layers of `model` by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, NORM_TYPES)}


def head_task(name: str) -> str | None:
    """Return the task of the head that `name` belongs to; None for the backbone."""
    part, _, rest = name.partition(".")
    return rest.partition(".")[0] if part == "heads" else None


def broadcast_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of float tensors that are sent to a site: backbone, shared heads.

    Local normalisation layers are sent too, because a site starts from their first values.
    """
    return tuple(
        name
        for name, tensor in sorted(model.state_dict().items())
        if tensor.is_floating_point() and (head_task(name) is None or aggregation.heads == "shared")
    )


def uploaded_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names that a site sends back: without local normalisation layers."""
    home = _norm_names(model) if aggregation.norm_layers == "local" else set()
    return tuple(name for name in broadcast_names(model, aggregation) if name not in home)


def optimised_names(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of uploaded backbone arrays that gradients change.

    These exclude running statistics and frozen normalisation layers.
    """
    norm = _norm_names(model)
    # `requires_grad` of a normalisation layer depends on its last use, so it is not used here.
    parameters = {
        name
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if (parameter.requires_grad or name in norm) and head_task(name) is None
    }
    if aggregation.norm_layers == "frozen":
        parameters -= norm
    return tuple(name for name in uploaded_names(model, aggregation) if name in parameters)


def averaged_statistics(model: MDMTModel, aggregation: AggregationConfig) -> tuple[str, ...]:
    """Return the sorted names of running statistics that change in training and are averaged."""
    if aggregation.norm_layers != "average":
        return ()
    buffers = {name for name, _ in model.named_buffers()} & _norm_names(model)
    return tuple(name for name in uploaded_names(model, aggregation) if name in buffers)


def local_tensors(model: MDMTModel, aggregation: AggregationConfig) -> dict[str, Tensor]:
    """Return copies of the tensors that a site keeps: local heads and normalisation layers.

    Returns
    -------
    dict of str to Tensor
        On the CPU, with the integer counters of normalisation layers.
    """
    home = _norm_names(model) if aggregation.norm_layers == "local" else set()
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in sorted(model.state_dict().items())
        if name in home or (head_task(name) is not None and aggregation.heads == "local")
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


def set_training_mode(model: MDMTModel, norm_layers: Literal["average", "local", "frozen"]) -> None:
    """Set the model to training mode. ``frozen`` does not change normalisation layers.

    Frozen layers use and keep their running statistics, and their parameters get no gradient. The
    other values undo this.
    """
    model.train()
    frozen = norm_layers == "frozen"
    for module in norm_modules(model).values():
        module.train(not frozen)
        for parameter in module.parameters():
            parameter.requires_grad_(not frozen)


def _norm_names(model: MDMTModel) -> set[str]:
    """Return the names of all tensors of normalisation layers."""
    return {
        f"{prefix}.{name}" for prefix, m in norm_modules(model).items() for name in m.state_dict()
    }


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
