"""The state of a running federation, and its checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from mdmt.algorithms import State
from mdmt.blob import Arrays
from mdmt.checkpoints import Saved
from mdmt.config import FederationConfig
from mdmt.errors import ConfigError, DamagedError, RunError
from mdmt.frozen import FrozenArrays
from mdmt.memory import keep_memory
from mdmt.messages import KeyStatement
from mdmt.models import (
    MDMTModel,
    averaged_statistics,
    broadcast_names,
    build_model,
    get_arrays,
    get_frozen_arrays,
    optimised_names,
    uploaded_names,
)
from mdmt.privacy.dp_training import check_private_model
from mdmt.selection import Selection
from mdmt.weighting import loss_coefficients
from server.norm_bound import History
from server.results import Results
from server.run import RunDirectory
from server.site_registry import SiteRegistry

_MEMORY = "algorithm."
"""Prefix of the algorithm's memory in a checkpoint."""


def _no_round() -> dict[str, Any]:
    return {"round": 0, "sites": {}, "refusals": {}, "seconds": 0.0}


@dataclass
class Federation:
    """The sites of a federation, and its state after the last round.

    Attributes
    ----------
    config : FederationConfig
    registry : SiteRegistry
    recipe : str
        The part of `config` that is sent to sites.
    run_id : str
        Id of the run. Sites keep their memory under this name.
    state : State
        State after `round`.
    uploaded : frozenset of str
        Names of the arrays that sites send back to the server.
    selection : Selection
        Best rounds so far.
    coefficients : dict of str to dict
        c_{s,t}: site → task → coefficient, fixed when the site was registered.
    round : int
        The last round.
    line : dict
        History line of `round`. The replies of the next round complete it.
    rounds_of : dict of str to int
        Site → number of rounds in which its update was used.
    norms : list of dict
        Norms of the updates that were accepted in the last rounds (`server.norm_bound`).
    statements : dict of str to KeyStatement
        With secure aggregation: what each site of the run signed.
    results : Results
        What the sites measured after the last round.
    frozen : FrozenArrays
        Arrays of the backbone that keep their initial values. They are not in `state`.
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
    norms: History = field(default_factory=list)
    statements: dict[str, KeyStatement] = field(default_factory=dict)
    results: Results = field(default_factory=Results)
    frozen: FrozenArrays = field(default_factory=lambda: FrozenArrays({}))

    def save(self, run: RunDirectory) -> None:
        """Start to write a checkpoint of `round`, and delete checkpoints that are not needed.

        It is complete when the round is booked. If the server dies earlier, it goes back by one
        more round; the sites have kept the start of this round.
        """
        arrays = {**self.frozen.arrays, **self.state.arrays}
        arrays |= {_MEMORY + name: value for name, value in self.state.memory.items()}
        facts = {
            "run": self.run_id,
            "line": self.line,
            "selection": self.selection.save(),
            "coefficients": self.coefficients,
            "rounds_of": self.rounds_of,
            "norms": self.norms,
            "statements": {s: of.model_dump(mode="json") for s, of in self.statements.items()},
        }
        tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in arrays.items()}
        keep = (*self.selection.kept_rounds, self.round - 1, self.round)
        run.save_round(self.round, tensors, facts, keep)

    def state_after(self, number: int, run: RunDirectory) -> State:
        """Return the state after round `number`: the last round or a best round."""
        if number == self.round:
            return self.state
        saved = saved_state(run.checkpoints.load(number), self.state.optimised)
        return _split(saved, self.frozen.arrays)[0]


def begin(config: FederationConfig, registry: SiteRegistry) -> Federation:
    """Build the initial state, from which every site starts.

    Raises
    ------
    ConfigError
        The model cannot be built, or the sites would send nothing.
    """
    keep_memory()
    torch.set_num_threads(config.training.threads)
    model = _initial_model(config)
    statistics = averaged_statistics(model, config.aggregation)
    if config.privacy.secure_aggregation and statistics:
        raise ConfigError(
            f"aggregation.norm_layers: average would sum running statistics ({statistics[0]}),"
            " which secure aggregation clips; use local or frozen"
        )
    arrays = get_arrays(model, broadcast_names(model, config.aggregation))
    uploaded = frozenset(uploaded_names(model, config.aggregation))
    if not uploaded:
        raise ConfigError(
            "nothing would be averaged: model.trainable and aggregation.norm_layers leave no array"
            " of the backbone, and aggregation.heads is local; use heads: shared"
        )
    return Federation(
        config=config,
        registry=registry,
        recipe=config.recipe,
        run_id=secrets.token_hex(6),
        frozen=FrozenArrays(get_frozen_arrays(model, config.aggregation)),
        state=State(arrays, optimised_names(model, config.aggregation)),
        uploaded=uploaded,
        selection=Selection(config),
        coefficients=loss_coefficients(config, registry.sites),
    )


def initial_arrays(config: FederationConfig) -> Arrays:
    """Build the initial arrays of the federation again."""
    model = _initial_model(config)
    return get_arrays(model, broadcast_names(model, config.aggregation))


def _initial_model(config: FederationConfig) -> MDMTModel:
    shared = tuple(config.tasks) if config.aggregation.heads == "shared" else ()
    model = build_model(config, shared, weights=True)
    if config.privacy.dp is not None:
        check_private_model(model, config)
    return model


def restore(federation: Federation, run: RunDirectory) -> None:
    """Restore a federation from its last intact checkpoint.

    Raises
    ------
    RunError
        There is no intact checkpoint.
    StateError
        The checkpoints belong to another federation.
    """
    for number in reversed(run.checkpoints.rounds()):
        try:
            saved = run.checkpoints.load(number)
        except DamagedError as error:
            run.event("notice", round=number, message=f"{error}; the one before is used")
            continue
        whole = saved_state(saved, federation.state.optimised)
        federation.state, federation.frozen = _split(whole, federation.frozen.arrays)
        federation.round, federation.line = number, saved.facts["line"]
        federation.run_id = saved.facts["run"]
        federation.selection.load(saved.facts["selection"])
        federation.coefficients |= saved.facts["coefficients"]
        federation.rounds_of = saved.facts["rounds_of"]
        federation.norms = saved.facts["norms"]
        federation.statements = {
            site: KeyStatement.model_validate(of) for site, of in saved.facts["statements"].items()
        }
        if number == federation.config.training.rounds and (metrics := run.read_metrics()):
            federation.results = Results.load(metrics)
        for task, best in federation.selection.forget(run.checkpoints.rounds()).items():
            # After `--from-round`: a round was the best one then, and a later one replaced it.
            why = (
                f"round {best}, the best of {task} until then, is not kept; the comparison restarts"
            )
            run.event("notice", round=number, message=why)
        run.rewind(number)
        run.event("resumed", round=number)
        return
    raise RunError(f"{run.folder}: holds no intact checkpoint to resume from; start a new run")


def saved_state(saved: Saved, optimised: tuple[str, ...] = ()) -> State:
    """Return the state in a checkpoint, with the frozen arrays; `optimised` is not saved."""
    arrays = {name: tensor.numpy() for name, tensor in sorted(saved.tensors.items())}
    own = {n.removeprefix(_MEMORY): v for n, v in arrays.items() if n.startswith(_MEMORY)}
    return State({n: v for n, v in arrays.items() if not n.startswith(_MEMORY)}, optimised, own)


def _split(state: State, frozen: Collection[str]) -> tuple[State, FrozenArrays]:
    """Split a state into one without the arrays `frozen`, and these arrays."""
    own = {name: array for name, array in state.arrays.items() if name not in frozen}
    kept = FrozenArrays({name: state.arrays[name] for name in frozen})
    return replace(state, arrays=own), kept
