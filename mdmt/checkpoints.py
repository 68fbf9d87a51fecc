"""One file of tensors per round, for the memory of a site and the checkpoints of the server.

A file is renamed into place when it is complete. It contains the identity of its run and a digest
of its tensors, so that a damaged file, or a file of another run, is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdmt.blob import fingerprint
from mdmt.errors import DamagedError, StateError
from mdmt.files import atomic_path

_FILE = re.compile(r"round-(\d{5})\.safetensors")


@dataclass(frozen=True)
class Saved:
    """A saved round.

    Attributes
    ----------
    round : int
    tensors : dict of str to Tensor
        On the CPU.
    facts : dict
        JSON values that were saved with the tensors.
    identity : dict of str to str
        The identity in the file, such as the federation and the run.
    """

    round: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    identity: dict[str, str]


def round_of(file: Path) -> int | None:
    """Return the round in the name of a file, or None."""
    match = _FILE.fullmatch(file.name)
    return int(match[1]) if match else None


class RoundFiles:
    """The saved rounds in one folder.

    Parameters
    ----------
    folder : Path
        Created when the first round is saved.
    identity : mapping of str to str
        Identity of the rounds. It is written to every file and checked by `load`.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = dict(identity)

    def rounds(self) -> list[int]:
        """Return the saved rounds, ascending."""
        numbers = (round_of(file) for file in self.folder.glob("round-*.safetensors"))
        return sorted(number for number in numbers if number is not None)

    def latest(self, up_to: int) -> int | None:
        """Return the last saved round up to `up_to`, or None."""
        return max((saved for saved in self.rounds() if saved <= up_to), default=None)

    def load(self, round_number: int) -> Saved:
        """Read a saved round.

        Raises
        ------
        DamagedError
            The file cannot be read, or its tensors do not match the digest.
        StateError
            The file has another identity.
        """
        path = self.path(round_number)
        try:
            with safe_open(path, framework="pt") as file:
                found = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            facts = json.loads(found.pop("facts", "{}"))
        except (SafetensorError, OSError, ValueError) as error:
            raise DamagedError(f"{path}: cannot be read: {error}") from error
        expected = self.identity | {"round": str(round_number)}
        wrong = [key for key, value in expected.items() if found.get(key) != value]
        if wrong:
            key = wrong[0]
            raise StateError(
                f"{path}: saved for {key} {found.get(key)}, not {expected[key]};"
                " move it away or choose another folder"
            )
        if found.pop("digest", "") != _digest(tensors):
            raise DamagedError(f"{path}: its tensors do not match their digest")
        return Saved(round_number, tensors, facts, found)

    def save(
        self,
        round_number: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a round. Replace an earlier file of the same round.

        Parameters
        ----------
        round_number : int
        tensors : mapping of str to Tensor
        facts : mapping, optional
            JSON values, which `load` returns with the tensors.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = self.identity | {
            "round": str(round_number),
            "digest": _digest(plain),
            "facts": json.dumps(facts or {}, allow_nan=False),
        }
        with atomic_path(self.path(round_number)) as temporary:
            save_file(plain, temporary, metadata=metadata)

    def prune(self, keep: Iterable[int]) -> None:
        """Keep the latest round up to each number in `keep`, and delete all other rounds."""
        there = self.rounds()
        needed = {max((r for r in there if r <= number), default=None) for number in keep}
        for saved in there:
            if saved not in needed:
                self.path(saved).unlink()

    def path(self, round_number: int) -> Path:
        """Return the file of a round."""
        return self.folder / f"round-{round_number:05d}.safetensors"


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return fingerprint({name: tensor.numpy() for name, tensor in tensors.items()})
