"""The same order again and again, each time in a new run: more looks at the same patients."""

from __future__ import annotations

from mdmt.config import FederationConfig

from .hospital import Hospital, Refused, initial_arrays
from .recipes import federation

MANY = 10
"""Times the rounds of the recipe, after which the attacker stops asking."""


def recipe() -> FederationConfig:
    """One round of three epochs."""
    return federation(
        model={"backbone": "test_efficientnet_ln", "image_size": 32},
        training={"rounds": 1, "local_epochs": 3},
    )


def attack(victim: Hospital) -> float:
    """Return the answers to first rounds of new runs, divided by the rounds of the recipe."""
    rounds, sent = victim.asked.training.rounds, initial_arrays(victim.asked)
    for run in range(1, MANY * rounds + 1):
        try:
            victim.train(sent, run=run)
        except Refused:
            return (run - 1) / rounds
    return float(MANY)
