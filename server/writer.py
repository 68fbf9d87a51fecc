"""Write a checkpoint while the sites train the next round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from typing import Any

from torch import Tensor

from mdmt.checkpoints import RoundFiles

__all__ = ["CheckpointWriter"]


class CheckpointWriter:
    """Saves rounds in its own thread, one at a time and in order.

    Parameters
    ----------
    files : RoundFiles
    """

    def __init__(self, files: RoundFiles) -> None:
        self._files = files
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def save(
        self,
        number: int,
        tensors: Mapping[str, Tensor],
        facts: Mapping[str, Any],
        keep: Iterable[int],
    ) -> None:
        """Start to save a round after the previous one is saved. Then delete all rounds but `keep`.

        Parameters
        ----------
        number : int
        tensors : mapping of str to Tensor
            They must not change after this call.
        facts : mapping
        keep : iterable of int
        """
        self.wait()
        self._writing = self._thread.submit(self._save, number, tensors, deepcopy(facts), [*keep])

    def wait(self) -> None:
        """Wait until all rounds are saved. Raise the error of a failed one."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Finish the running write."""
        self._thread.shutdown()

    def _save(
        self, number: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: list[int]
    ) -> None:
        self._files.save(number, tensors, facts)
        self._files.prune(keep)
