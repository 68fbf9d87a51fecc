"""How sites train: optimiser, schedule, length of a round."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mdmt.config.types import NonNegative, Positive, named
from mdmt.strict import Strict

__all__ = ["TrainingConfig"]


class SGD(Strict):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0


class Adam(Strict):
    """Adam; `adamw` decouples the weight decay."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-5


class Constant(Strict):
    """The same rate in every round."""

    name: Literal["none"] = "none"


class Cosine(Strict):
    """Half a cosine from the rate to 0 over all rounds."""

    name: Literal["cosine"] = "cosine"


class Step(Strict):
    """The rate times `gamma` after every `rounds` rounds."""

    name: Literal["step"] = "step"
    rounds: Annotated[int, Field(gt=0)]
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Plateau(Strict):
    """The rate times `gamma` after `patience` rounds without a better validation loss."""

    name: Literal["plateau"] = "plateau"
    patience: Annotated[int, Field(gt=0)] = 15
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.65


Optimizer = Annotated[Annotated[SGD | Adam, Field(discriminator="name")], BeforeValidator(named)]
Scheduler = Annotated[
    Annotated[Constant | Cosine | Step | Plateau, Field(discriminator="name")],
    BeforeValidator(named),
]


class TrainingConfig(Strict):
    """The recipe every site, pooled and local-only run shares."""

    rounds: Annotated[int, Field(gt=0)]
    local_epochs: Annotated[int, Field(gt=0)] | None = None
    local_steps: Annotated[int, Field(gt=0)] | None = None
    """Epochs or optimiser steps per round; one epoch if neither is given."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    evaluation_batch_size: Annotated[int, Field(gt=0)] = 64
    """Images per batch of validation and test; it changes speed and memory alone."""
    optimizer: Optimizer = SGD()
    scheduler: Scheduler = Constant()
    amp: Literal["none", "bf16", "fp16"] = "none"
    compile: bool = False
    """Train through torch.compile: minutes to compile in a new process, other bits."""
    clip_norm: Positive | None = None
    """Largest gradient norm of a step."""
    threads: Annotated[int, Field(gt=0)] = 1
    """CPU threads per site; the bits of a result depend on it."""
    round_timeout: Positive = 3600.0
    """Seconds a round waits for its sites."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.local_epochs and self.local_steps:
            raise ValueError("local_epochs and local_steps exclude each other: keep one")
        return self
