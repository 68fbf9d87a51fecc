"""The model: a shared backbone with one head per task, and which of its parts travel."""

from mdmt.models.heads import MDMTModel, build_model
from mdmt.models.partition import (
    get_arrays,
    head_task,
    load_staying,
    norm_modules,
    received,
    set_arrays,
    set_training_mode,
    staying,
    trained,
    travelling,
)

__all__ = [
    "MDMTModel",
    "build_model",
    "get_arrays",
    "head_task",
    "load_staying",
    "norm_modules",
    "received",
    "set_arrays",
    "set_training_mode",
    "staying",
    "trained",
    "travelling",
]
