"""What a site keeps on its own disk between rounds: heads, their optimiser moments, local norms.

One file per round, so that a repeated round starts from the very state it first started from.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mdmt.errors import StateError
from mdmt.files import atomic_path

__all__ = ["SiteState"]

_FILE = re.compile(r"round-(\d{5})\.safetensors")


class SiteState:
    """The saved rounds of one site in one arm of one run.

    Parameters
    ----------
    folder : Path
        Made when the first round is saved.
    identity : mapping of str to str
        What the state belongs to (federation, run, arm, site, backbone); written into every file
        and compared when one is read.
    """

    def __init__(self, folder: Path, identity: Mapping[str, str]) -> None:
        self.folder = folder
        self.identity = dict(identity)

    def rounds(self) -> list[int]:
        """Saved rounds, ascending."""
        names = (_FILE.fullmatch(file.name) for file in self.folder.glob("round-*.safetensors"))
        return sorted(int(match[1]) for match in names if match)

    def latest(self, up_to: int) -> int | None:
        """The last saved round that is not after `up_to`."""
        return max((saved for saved in self.rounds() if saved <= up_to), default=None)

    def load(self, up_to: int) -> dict[str, Tensor]:
        """Tensors of the last round not after `up_to`; empty if the site has none yet.

        Raises
        ------
        StateError
            The file is damaged or belongs to something else.
        """
        saved = self.latest(up_to)
        if saved is None:
            return {}
        path = self.path(saved)
        try:
            with safe_open(path, framework="pt") as file:
                found = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise StateError(f"{path}: the saved heads cannot be read: {error}") from error
        wrong = [key for key, value in self.identity.items() if found.get(key) != value]
        if wrong:
            key = wrong[0]
            raise StateError(
                f"{path}: saved for {key} {found.get(key)}, not {self.identity[key]};"
                " move it away or choose another state_dir"
            )
        return tensors

    def save(self, round_number: int, tensors: Mapping[str, Tensor]) -> None:
        """Write the state after `round_number`, replacing an earlier attempt at that round."""
        with atomic_path(self.path(round_number)) as temporary:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                temporary,
                metadata=self.identity,
            )

    def prune(self, keep: Iterable[int]) -> None:
        """Delete every round that is not what `load` would read for one of `keep`."""
        needed = {self.latest(round_number) for round_number in keep}
        for saved in self.rounds():
            if saved not in needed:
                self.path(saved).unlink()

    def path(self, round_number: int) -> Path:
        """Where the state after `round_number` lies."""
        return self.folder / f"round-{round_number:05d}.safetensors"
