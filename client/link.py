"""A site's end of the wire: what it received last, and what its own deltas have lost so far.

Both are kept per round, beside the heads and like them: a round starts from what the site had after
its last one, so that repeating it gives the same bits, and a lost file costs one message in full.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mdmt.checkpoints import RoundFiles
from mdmt.config import WireConfig
from mdmt.deltas import decode, encode
from mdmt.errors import DamagedError, UnknownBaseError
from mdmt.wire import Arrays, compress, facts_of, fingerprint, inflate, pack, unpack

__all__ = ["Link"]

_HELD, _LOST = "held.", "lost."
log = logging.getLogger(__name__)


class Link:
    """The wire in one round.

    Parameters
    ----------
    wire : WireConfig
    state : RoundFiles
        Where a lossy wire keeps its rounds; an exact one keeps nothing.
    started : int or None
        The round whose state this one starts from.
    """

    def __init__(self, wire: WireConfig, state: RoundFiles, started: int | None) -> None:
        self._wire, self._state = wire, state
        self._held: dict[str, NDArray[Any]] = {}
        self._lost: dict[str, NDArray[Any]] = {}
        self._fingerprint = ""
        if wire.exact or started not in state.rounds():
            return
        try:
            saved = state.load(started)
        except DamagedError as error:
            log.warning("%s; this site has to be sent everything in full", error)
            return
        self._fingerprint = saved.facts["fingerprint"]
        for name, tensor in saved.tensors.items():
            part = self._held if name.startswith(_HELD) else self._lost
            part[name.partition(".")[2]] = tensor.numpy()

    def receive(self, blob: bytes, limit: int) -> Arrays:
        """Decode what the server sent.

        Parameters
        ----------
        blob : bytes
        limit : int
            Most bytes it may have once it is inflated.

        Raises
        ------
        UnknownBaseError
            It is a delta to something else than this site has, or leads to something else than the
            server says.
        ValueError
            It is too large, or cannot be decoded.
        """
        blob = inflate(blob, limit)
        facts = facts_of(blob)
        if facts.get("base", self._fingerprint) != self._fingerprint:
            raise UnknownBaseError("the backbone that a delta builds on is not here any more")
        arrays = decode(unpack(blob), self._held, self._wire.down)
        told = facts.get("fingerprint", "")
        if told and fingerprint(arrays) != told:
            raise UnknownBaseError("what was received is not what the server meant to send")
        self._held, self._fingerprint = arrays, told
        return arrays

    def send(self, arrays: Arrays) -> bytes:
        """Encode the update of the arrays that were received."""
        if self._wire.exact:
            return pack(arrays)
        travels, self._lost = encode(arrays, self._held, self._wire.up, self._lost)
        blob = pack(travels, base=self._fingerprint)
        return blob if self._wire.up == "float32" else compress(blob, self._wire.up)

    def save(self, number: int) -> None:
        """Keep what the next round starts from; a site's heads of the round are saved after it."""
        if self._wire.exact:
            return
        held = self._held if self._wire.down != "float32" else {}
        parts = {_HELD: held, _LOST: self._lost}
        tensors = {
            part + name: torch.from_numpy(np.require(array, requirements=("C", "W")))
            for part, arrays in parts.items()
            for name, array in arrays.items()
        }
        self._state.save(number, tensors, {"fingerprint": self._fingerprint})
        self._state.prune(range(number - 2, number + 1))
