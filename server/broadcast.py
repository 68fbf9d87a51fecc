"""The arrays of a state for each site, encoded."""

from __future__ import annotations

from mdmt.algorithms import Algorithm, State
from mdmt.blob import Arrays
from mdmt.messages import SiteCard
from mdmt.models import head_task
from mdmt.wire import Codec


class Broadcast:
    """Encode what an algorithm sends to sites. Sites with the same arrays share one blob.

    Parameters
    ----------
    codec : Codec
    algorithm : Algorithm
    state : State
    """

    def __init__(self, codec: Codec, algorithm: Algorithm, state: State) -> None:
        self._codec, self._algorithm, self._state = codec, algorithm, state
        self._encoded: dict[tuple[int, frozenset[str]], tuple[bytes, Arrays, Arrays]] = {}

    def to(self, card: SiteCard, *, whole: bool = False) -> tuple[bytes, Arrays]:
        """Return the arrays for a site, encoded and not encoded.

        With `whole` they include the heads of tasks that the site lacks.
        """
        arrays = self._algorithm.broadcast(self._state, card.name)
        own = arrays if whole else own_arrays(arrays, card)
        key = id(arrays), frozenset(own)
        if key not in self._encoded:
            # The arrays are kept: after they are freed, others could get the same id.
            self._encoded[key] = self._codec.broadcast(own), own, arrays
        blob, own, _ = self._encoded[key]
        return blob, own


def own_arrays(arrays: Arrays, card: SiteCard) -> Arrays:
    """Return the arrays of the backbone and of the heads of a site's tasks."""
    return {n: v for n, v in arrays.items() if (head_task(n) or "") in {"", *card.tasks}}
