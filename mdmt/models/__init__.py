"""The model: a shared backbone with one head per task, and the parts that are sent."""

from mdmt.models.heads import MDMTModel, build_model
from mdmt.models.norms import norm_modules
from mdmt.models.partition import (
    Part,
    averaged_statistics,
    broadcast_names,
    frozen_names,
    get_arrays,
    get_frozen_arrays,
    head_task,
    local_tensors,
    optimised_names,
    set_arrays,
    set_training_mode,
    uploaded_names,
)

__all__ = [
    "MDMTModel",
    "Part",
    "averaged_statistics",
    "build_model",
    "frozen_names",
    "get_arrays",
    "get_frozen_arrays",
    "head_task",
    "norm_modules",
    "broadcast_names",
    "set_arrays",
    "set_training_mode",
    "local_tensors",
    "optimised_names",
    "uploaded_names",
]
