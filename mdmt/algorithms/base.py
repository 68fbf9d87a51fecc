"""The interface of a federated algorithm.

An algorithm knows neither Flower nor files: its caller sends, receives, loads and saves. It decides
what a site gets, what the site does with it, what comes back, how the server combines that, and
which model a site evaluates and releases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny

from mdmt.blob import Arrays
from mdmt.errors import ConfigError
from mdmt.registry import Registry
from mdmt.strict import Strict, by_kind

if TYPE_CHECKING:
    from torch import Tensor

    from mdmt.algorithms.site_round import SiteRound
    from mdmt.training import TrainingResult

__all__ = ["Algorithm", "AnyAlgorithm", "State", "Update", "algorithms", "require_sum"]

Weights = Mapping[str, Mapping[str, float]]
"""Site → array → weight. The weights of one array sum to 1."""


@dataclass(frozen=True)
class State:
    """What the server knows after a round.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The backbone's float arrays, and the heads that sites share.
    optimised : tuple of str
        Names in `arrays` that a server optimiser acts on: trainable arrays of the backbone, never
        running statistics.
    memory : mapping of str to ndarray
        What the algorithm keeps between rounds, such as moments; it is saved with the round.
    """

    arrays: Arrays
    optimised: tuple[str, ...] = ()
    memory: Arrays = field(default_factory=dict)

    def updated(self, arrays: Arrays, memory: Arrays | None = None) -> State:
        """Replace some arrays, and the memory if one is given."""
        merged = {**self.arrays, **arrays}
        return replace(self, arrays=merged, memory=self.memory if memory is None else memory)


@dataclass(frozen=True)
class Update:
    """What a site's round gives.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        Sent to the server.
    memory : mapping of str to Tensor
        Kept at the site until its next round.
    result : TrainingResult
        Losses and counts of the training.
    """

    arrays: Arrays
    memory: Mapping[str, Tensor]
    result: TrainingResult


class Algorithm(Strict, ABC):
    """A federated algorithm with its options, as ``algorithm`` in a federation's file names it."""

    name: str

    needs: ClassVar[Literal["sum", "updates"]] = "sum"
    """``sum``: the server needs the weighted sum of the updates alone. ``updates``: each one."""

    # At the server.

    def broadcast(self, state: State, site: str) -> Arrays:
        """Choose the arrays that a site gets; heads of tasks it has not are left out later."""
        return state.arrays

    def combine(self, state: State, mean: Arrays) -> State:
        """Make the next state from Σ_s w_s θ_s. Called where `needs` is ``sum``.

        Parameters
        ----------
        state : State
        mean : mapping of str to ndarray
            Weighted mean of each array over the accepted sites. It lacks the head of a task that
            no accepted site has labels for.
        """
        raise NotImplementedError(f"{self.name} does not combine sums")

    def combine_each(self, state: State, updates: Mapping[str, Arrays], weights: Weights) -> State:
        """Make the next state from every site's θ_s. Called where `needs` is ``updates``."""
        raise NotImplementedError(f"{self.name} does not combine single updates")

    # At a site.

    @abstractmethod
    def load(self, site: SiteRound) -> None:
        """Put into ``site.model`` what the site evaluates, releases and predicts with."""

    @abstractmethod
    def train(self, site: SiteRound) -> Update:
        """Train for one round. `load` was called before, and the model was evaluated."""


algorithms: Registry[type[Algorithm]] = Registry("algorithm", "mdmt.algorithms")


def require_sum(algorithm: Algorithm) -> None:
    """Refuse an algorithm that needs single updates where the server only learns their sum.

    Raises
    ------
    ConfigError
    """
    if algorithm.needs != "sum":
        raise ConfigError(
            f"algorithm: {algorithm.name} needs every site's update, and secure aggregation gives"
            " the server their sum alone"
        )


_read = by_kind(algorithms, "name")


def _algorithm(value: Any) -> Any:
    """Read ``fedavg`` or ``{name: fedprox, mu: 0.1}``."""
    return _read({"name": value} if isinstance(value, str) else value)


AnyAlgorithm = Annotated[SerializeAsAny[Algorithm], BeforeValidator(_algorithm)]
"""An algorithm as a configuration declares it."""
