"""How sites train: optimiser, schedule and length of a round."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mdmt.strict import NonNegative, Positive, Strict, named


class SGD(Strict):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 0.0


class Adam(Strict):
    """Adam. `adamw` decouples the weight decay from the gradient."""

    name: Literal["adam", "adamw"] = "adam"
    lr: Positive = 1e-3
    weight_decay: NonNegative = 1e-5


class Constant(Strict):
    """A constant rate."""

    name: Literal["none"] = "none"


class Cosine(Strict):
    """Lower the rate to 0 over all rounds, with half a cosine."""

    name: Literal["cosine"] = "cosine"


class Step(Strict):
    """Multiply the rate by `gamma` after every `rounds` rounds."""

    name: Literal["step"] = "step"
    rounds: Annotated[int, Field(gt=0)]
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.1


class Plateau(Strict):
    """Multiply the rate by `gamma` after `patience` rounds without a lower validation loss."""

    name: Literal["plateau"] = "plateau"
    patience: Annotated[int, Field(gt=0)] = 15
    gamma: Annotated[float, Field(gt=0, lt=1)] = 0.65


Optimizer = Annotated[SGD | Adam, Field(discriminator="name"), BeforeValidator(named)]
Schedules = Constant | Cosine | Step | Plateau
Scheduler = Annotated[Schedules, Field(discriminator="name"), BeforeValidator(named)]


class TrainingConfig(Strict):
    """How sites train. References and all arms of a study use the same settings."""

    rounds: Annotated[int, Field(gt=0)]
    local_epochs: Annotated[int, Field(gt=0)] | None = None
    local_steps: Annotated[int, Field(gt=0)] | None = None
    """Epochs or optimiser steps per round. The default is one epoch."""
    batch_size: Annotated[int, Field(gt=0)] = 32
    evaluation_batch_size: Annotated[int, Field(gt=0)] = 64
    """Images per batch of validation and test. It changes speed and memory only."""
    optimizer: Optimizer = SGD()
    scheduler: Scheduler = Constant()
    backbone_lr_mult: Positive = 1.0
    """Factor on the rate of the backbone."""
    warmup_rounds: Annotated[int, Field(ge=0)] = 0
    """First rounds, in which only the heads train."""
    amp: Literal["none", "bf16", "fp16"] = "none"
    refit_heads: bool = False
    """After the last round, fit the last layer of each head on the final backbone, at the site."""
    compile: bool = False
    """Train with torch.compile. A new process compiles for minutes; the result has other bits."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient of a step."""
    threads: Annotated[int, Field(gt=0, le=256)] = 1
    """CPU threads per site. The bits of the result depend on it."""
    round_timeout: Positive = 3600.0
    """Seconds that a round waits for its sites."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.local_epochs and self.local_steps:
            raise ValueError("local_epochs and local_steps exclude each other; keep one")
        if self.warmup_rounds >= self.rounds:
            raise ValueError("warmup_rounds: no round is left that trains the backbone")
        return self


class AggregationConfig(Strict):
    """The sites that take part in a round, and their weights."""

    weighting: Literal["tasks", "examples", "uniform"] = "tasks"
    norm_layers: Literal["average", "local", "frozen"] = "average"
    heads: Literal["local", "shared"] = "local"
    max_weight: Annotated[float, Field(gt=0, le=1)] | None = None
    """Largest weight of a site. A larger one is cut, and the others share the rest."""
    norm_bound: Annotated[float, Field(gt=1)] | None = 15.0
    """Largest update, as a multiple of the median of recent updates; None allows any."""
    on_large: Literal["refuse", "clip"] = "refuse"
    """What to do with a larger update: do not use it, or shorten it to the largest norm."""
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the sites that are drawn for a round."""
    min_sites: Annotated[int, Field(gt=0)] = 1
    """Smallest number of sites to start with, and of accepted updates per round."""
    on_missing: Literal["continue", "stop"] = "continue"
    """What to do if a site does not answer in time or its update is refused."""
    join_timeout: Positive = 120.0
    """Seconds that registration waits for the sites."""


class ReleaseConfig(Strict):
    """The model that is released."""

    checkpoint: Literal["last", "best", "auto"] = "auto"
    """``last``: that of the last round. ``best``: for each task, that of the round with the best
    validation. ``auto``: the best one if validation is large enough (`enough_to_choose`), else the
    last one."""


class WireConfig(Strict):
    """Encoding of arrays in messages. `float32` is exact; the others round.

    Small arrays and running statistics are always float32.
    """

    up: Literal["float32", "float16", "int8"] = "float32"
    """Site to server. float16 and int8 encode the difference from the received array."""
    down: Literal["float32", "float16"] = "float32"
    """Server to site."""
