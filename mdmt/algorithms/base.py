"""The interface of a federated algorithm.

An algorithm uses neither Flower nor files: its caller sends, receives, loads and saves. It decides
which arrays a site gets, how the site trains, which arrays the site sends back, how the server
combines them, and which model a site evaluates and releases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, SerializeAsAny

from mdmt.blob import Arrays
from mdmt.errors import ConfigError
from mdmt.registry import Registry
from mdmt.strict import Strict, by_kind

if TYPE_CHECKING:
    from torch import Tensor

    from mdmt.config import FederationConfig
    from mdmt.site_round import SiteRound
    from mdmt.training import TrainingResult

Weights = Mapping[str, Mapping[str, float]]
"""Site → array → weight. The weights of one array sum to 1."""


@dataclass(frozen=True)
class State:
    """The state of the server after a round.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        The float arrays of the backbone and of shared heads.
    optimised : tuple of str
        Names in `arrays` that a server optimiser changes: trainable arrays of the backbone, without
        running statistics.
    memory : mapping of str to ndarray
        Arrays that the algorithm keeps between rounds, such as moments. They are saved with the
        round.
    """

    arrays: Arrays
    optimised: tuple[str, ...] = ()
    memory: Arrays = field(default_factory=dict)

    def updated(self, arrays: Arrays, memory: Arrays | None = None) -> State:
        """Return a state with some arrays replaced, and with another memory if one is given."""
        merged = {**self.arrays, **arrays}
        return replace(self, arrays=merged, memory=self.memory if memory is None else memory)


@dataclass(frozen=True)
class Update:
    """The result of a round at a site.

    Attributes
    ----------
    arrays : mapping of str to ndarray
        Arrays that are sent to the server.
    memory : mapping of str to Tensor
        Tensors that the site keeps until its next round.
    result : TrainingResult
        Losses and counts of the training.
    """

    arrays: Arrays
    memory: Mapping[str, Tensor]
    result: TrainingResult


class Algorithm(Strict, ABC):
    """A federated algorithm with its options: the section ``algorithm`` of a federation."""

    name: str

    needs: ClassVar[Literal["sum", "updates"]] = "sum"
    """``sum``: the server needs only the weighted sum of the updates. ``updates``: each update."""

    @property
    def fewest_updates(self) -> int:
        """The smallest number of updates that the server can combine."""
        return 1

    backbone: ClassVar[Literal["common", "server", "own"]] = "common"
    """The backbone that a site evaluates, releases and predicts with: the ``common`` one, one that
    the ``server`` makes for the site (`broadcast`), or its ``own``, from its memory."""

    def round_steps(self, steps: int) -> int:
        """Return the optimiser steps of a round at a site.

        Parameters
        ----------
        steps : int
            Steps of `training.local_steps` or `training.local_epochs`.
        """
        return steps

    def conflicts(self, config: FederationConfig) -> Iterator[str]:
        """Yield each key that a federation with this algorithm cannot have, and the reason."""
        yield from ()

    # At the server.

    def broadcast(self, state: State, site: str) -> Arrays:
        """Return the arrays for a site. The caller removes heads of tasks that the site lacks."""
        return state.arrays

    def combine(self, state: State, mean: Arrays) -> State:
        """Return the next state from Σ_s w_s θ_s. Called if `needs` is ``sum``.

        Parameters
        ----------
        state : State
        mean : mapping of str to ndarray
            Weighted mean of each array over the accepted sites. If no accepted site has a label of
            a task, the head of this task is absent.
        """
        raise NotImplementedError(f"{self.name} does not combine sums")

    def combine_each(self, state: State, updates: Mapping[str, Arrays], weights: Weights) -> State:
        """Return the next state from θ_s of every site. Called if `needs` is ``updates``."""
        raise NotImplementedError(f"{self.name} does not combine single updates")

    # At a site.

    @abstractmethod
    def load(self, site: SiteRound) -> None:
        """Load the model that the site evaluates, releases and predicts with."""

    @abstractmethod
    def train(self, site: SiteRound) -> Update:
        """Train for one round. Before, `load` was called and the model was evaluated."""


algorithms: Registry[type[Algorithm]] = Registry("algorithm", "mdmt.algorithms")


def require_sum(algorithm: Algorithm) -> None:
    """Refuse an algorithm that needs single updates if the server gets only their sum.

    Raises
    ------
    ConfigError
    """
    if algorithm.needs != "sum":
        raise ConfigError(
            f"algorithm: {algorithm.name} needs the update of every site, but secure aggregation"
            " gives the server only their sum"
        )


def needs_local_heads(config: FederationConfig) -> Iterator[str]:
    """Yield the conflicts of an algorithm that trains the parts of a model on their own."""
    if config.aggregation.heads != "local":
        yield "aggregation.heads must be local, because each site has its own heads"
    if config.privacy.dp is not None:
        yield "privacy.dp cannot be used, because it trains the whole model once per round"


_read = by_kind(algorithms, "name")


def _algorithm(value: Any) -> Any:
    """Read ``fedavg`` or ``{name: fedprox, mu: 0.1}``."""
    return _read({"name": value} if isinstance(value, str) else value)


AnyAlgorithm = Annotated[SerializeAsAny[Algorithm], BeforeValidator(_algorithm)]
"""An algorithm in a configuration."""
