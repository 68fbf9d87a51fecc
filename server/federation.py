"""A federation under way: what its rounds change, and how that outlives the server's process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdmt.config import FederationConfig
from mdmt.errors import DamagedError, RunError
from mdmt.messages import Arm, EvaluateReport
from server.downlink import Downlink
from server.run import RunDirectory
from server.selection import Selection
from server.site_registry import Roster

__all__ = ["Arrays", "Federation", "restore"]

Arrays = dict[str, NDArray[np.floating]]
_OPTIMISER, _HELD = "optimiser.", "held."
"""Beginnings of names in a checkpoint: the optimiser's state, and arrays as sites have them."""


def _nothing_booked() -> dict[str, Any]:
    return {"round": 0, "sites": {}, "refusals": {}, "seconds": 0.0}


@dataclass
class Federation:
    """Who takes part, and the backbone as it stands.

    Attributes
    ----------
    config : FederationConfig
    roster : Roster
        The sites, by node.
    recipe : str
        What sites are told; that of the federation in every arm.
    run_id : str
        Sites keep their heads under it.
    arm : {"federated", "local"}
        ``local``: the same rounds for one site alone, as a reference.
    arrays : dict of str to ndarray
        What sites are sent: the backbone's float arrays, and shared heads.
    trained : tuple of str
        Names in `arrays` that a server optimiser acts on.
    travelling : frozenset of str
        Names in `arrays` that sites send back.
    selection : Selection
        Best rounds so far.
    coefficients : dict of str to dict
        c_{s,t}: site → task → coefficient, as they were when the site was admitted.
    round : int
        Of `arrays`.
    line : dict
        The history line of `round`, which the next round's replies complete.
    optimiser : dict of str to ndarray
        State of the server optimiser after `round`.
    taken_part : dict of str to int
        Site → rounds in which its update was used.
    last_reports : dict of str to EvaluateReport
        What the sites said of the final backbone.
    downlink : Downlink
        What the sites have of `arrays` on their way down.
    """

    config: FederationConfig
    roster: Roster
    recipe: str
    run_id: str
    arm: Arm
    arrays: Arrays
    trained: tuple[str, ...]
    travelling: frozenset[str]
    selection: Selection
    coefficients: dict[str, dict[str, float]]
    round: int = 0
    line: dict[str, Any] = field(default_factory=_nothing_booked)
    optimiser: Arrays = field(default_factory=dict)
    taken_part: dict[str, int] = field(default_factory=dict)
    last_reports: dict[str, EvaluateReport] = field(default_factory=dict)
    downlink: Downlink = field(init=False)

    def __post_init__(self) -> None:
        self.downlink = Downlink(self.config.wire)

    def save(self, run: RunDirectory) -> None:
        """Begin to write a checkpoint of `round`, and drop those that no step back or best needs.

        It is written when the round is booked. Until then a server that dies goes back by one round
        more, whose start the sites have kept.
        """
        lossy = self.config.wire.down != "float32"  # else sites have what was sent
        held = {
            name: array
            for name, array in self.downlink.held.items()
            if lossy and array is not self.arrays[name]
        }
        arrays = self.arrays | {f"{_OPTIMISER}{name}": v for name, v in self.optimiser.items()}
        arrays |= {f"{_HELD}{name}": v for name, v in held.items()}
        facts = {
            "run": self.run_id,
            "line": self.line,
            "selection": self.selection.save(),
            "coefficients": self.coefficients,
            "taken_part": self.taken_part,
            "confirmed": self.downlink.confirmed if lossy else {},
        }
        tensors = {name: torch.from_numpy(np.asarray(v)) for name, v in arrays.items()}
        keep = (*self.selection.kept_rounds, self.round - 1, self.round)
        run.writer.save(self.round, tensors, facts, keep)

    def arrays_after(self, number: int, run: RunDirectory) -> Mapping[str, NDArray[np.floating]]:
        """`arrays` as they were after round `number`: the last one, or a best one."""
        if number == self.round:
            return self.arrays
        return _split(run.checkpoints.load(number).tensors)[""]


def restore(federation: Federation, run: RunDirectory) -> None:
    """Put a federation back to its last round with a sound checkpoint.

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
        parts = _split(saved.tensors)
        federation.arrays, federation.optimiser = parts[""], parts[_OPTIMISER]
        held = federation.arrays | parts[_HELD] if parts[_HELD] else {}
        federation.downlink = Downlink(federation.config.wire, held, saved.facts["confirmed"])
        federation.round, federation.line = number, saved.facts["line"]
        federation.run_id = saved.facts["run"]
        federation.selection.load(saved.facts["selection"])
        federation.coefficients |= saved.facts["coefficients"]
        federation.taken_part = saved.facts["taken_part"]
        run.rewind(number)
        run.event("resumed", round=number)
        return
    raise RunError(f"{run.folder}: holds no sound checkpoint to resume from; start a new run")


def _split(tensors: Mapping[str, torch.Tensor]) -> dict[str, Arrays]:
    """Arrays of a checkpoint, and what lies beside them, by the beginning of their names."""
    parts: dict[str, Arrays] = {_OPTIMISER: {}, _HELD: {}, "": {}}
    for name, tensor in sorted(tensors.items()):
        beginning = next(part for part in parts if name.startswith(part))
        parts[beginning][name.removeprefix(beginning)] = tensor.numpy()
    return parts
