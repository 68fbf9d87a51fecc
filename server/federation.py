"""A federation in progress: what its rounds change, and how that survives the server's process."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mdmt.algorithms import State
from mdmt.blob import Arrays
from mdmt.config import FederationConfig
from mdmt.errors import DamagedError, RunError
from mdmt.memory import keep_memory
from mdmt.messages import EvaluateReport
from mdmt.models import (
    MDMTModel,
    broadcast_names,
    build_model,
    get_arrays,
    optimised_names,
    uploaded_names,
)
from mdmt.selection import Selection
from server.run import RunDirectory
from server.site_registry import SiteRegistry
from server.weighting import loss_coefficients

__all__ = ["Federation", "begin", "initial_arrays", "restore"]

_MEMORY = "algorithm."
"""Prefix of the algorithm's own arrays in a checkpoint."""


def _no_round() -> dict[str, Any]:
    return {"round": 0, "sites": {}, "refusals": {}, "seconds": 0.0}


@dataclass
class Federation:
    """Who takes part, and the model after the last round.

    Attributes
    ----------
    config : FederationConfig
    registry : SiteRegistry
    recipe : str
        What sites are sent of `config`.
    run_id : str
        Sites keep their memory under it.
    state : State
        After `round`.
    uploaded : frozenset of str
        Names of the arrays that sites send back.
    selection : Selection
        Best rounds so far.
    coefficients : dict of str to dict
        c_{s,t}: site → task → coefficient, fixed when the site was registered.
    round : int
        The last round.
    line : dict
        The history line of `round`, which the next round's replies complete.
    rounds_of : dict of str to int
        Site → rounds in which its update was used.
    last_reports : dict of str to EvaluateReport
        Evaluation of the final model.
    """

    config: FederationConfig
    registry: SiteRegistry
    recipe: str
    run_id: str
    state: State
    uploaded: frozenset[str]
    selection: Selection
    coefficients: dict[str, dict[str, float]]
    round: int = 0
    line: dict[str, Any] = field(default_factory=_no_round)
    rounds_of: dict[str, int] = field(default_factory=dict)
    last_reports: dict[str, EvaluateReport] = field(default_factory=dict)

    def save(self, run: RunDirectory) -> None:
        """Start to write a checkpoint of `round`, and delete those that nobody needs.

        It is complete when the round is booked. A server that dies before goes back by one more
        round, whose start the sites have kept.
        """
        arrays = {**self.state.arrays}
        arrays |= {_MEMORY + name: value for name, value in self.state.memory.items()}
        facts = {
            "run": self.run_id,
            "line": self.line,
            "selection": self.selection.save(),
            "coefficients": self.coefficients,
            "rounds_of": self.rounds_of,
        }
        tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in arrays.items()}
        keep = (*self.selection.kept_rounds, self.round - 1, self.round)
        run.writer.save(self.round, tensors, facts, keep)

    def arrays_after(self, number: int, run: RunDirectory) -> Arrays:
        """The broadcast arrays after round `number`: the last round, or a best one."""
        if number == self.round:
            return self.state.arrays
        return _split(run.checkpoints.load(number).tensors)[0]


def begin(config: FederationConfig, registry: SiteRegistry) -> Federation:
    """Build the initial model that every site starts from."""
    keep_memory()
    torch.set_num_threads(config.training.threads)
    model = _initial_model(config)
    arrays = get_arrays(model, broadcast_names(model, config.aggregation))
    return Federation(
        config=config,
        registry=registry,
        recipe=config.recipe,
        run_id=secrets.token_hex(6),
        state=State(arrays, optimised_names(model, config.aggregation)),
        uploaded=frozenset(uploaded_names(model, config.aggregation)),
        selection=Selection(config),
        coefficients=loss_coefficients(config, registry.sites),
    )


def initial_arrays(config: FederationConfig) -> Arrays:
    """The arrays that the federation began with, built again."""
    model = _initial_model(config)
    return get_arrays(model, broadcast_names(model, config.aggregation))


def _initial_model(config: FederationConfig) -> MDMTModel:
    shared = tuple(config.tasks) if config.aggregation.heads == "shared" else ()
    return build_model(config, shared, weights=True)


def restore(federation: Federation, run: RunDirectory) -> None:
    """Put a federation back to its last round with an intact checkpoint.

    Raises
    ------
    RunError
        There is none.
    StateError
        The checkpoints are another federation's.
    """
    for number in reversed(run.checkpoints.rounds()):
        try:
            saved = run.checkpoints.load(number)
        except DamagedError as error:
            run.event("notice", round=number, message=f"{error}; the one before is used")
            continue
        arrays, memory = _split(saved.tensors)
        federation.state = State(arrays, federation.state.optimised, memory)
        federation.round, federation.line = number, saved.facts["line"]
        federation.run_id = saved.facts["run"]
        federation.selection.load(saved.facts["selection"])
        federation.coefficients |= saved.facts["coefficients"]
        federation.rounds_of = saved.facts["rounds_of"]
        run.rewind(number)
        run.event("resumed", round=number)
        return
    raise RunError(f"{run.folder}: holds no intact checkpoint to resume from; start a new run")


def _split(tensors: Mapping[str, torch.Tensor]) -> tuple[Arrays, Arrays]:
    """Arrays of a checkpoint: those that are broadcast, and the algorithm's own."""
    arrays = {name: tensor.numpy() for name, tensor in sorted(tensors.items())}
    own = {n.removeprefix(_MEMORY): v for n, v in arrays.items() if n.startswith(_MEMORY)}
    return {n: v for n, v in arrays.items() if not n.startswith(_MEMORY)}, own
