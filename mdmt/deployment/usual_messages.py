"""How many messages of a site a run needs: the usual `policy.max_messages` of a kit."""

from __future__ import annotations

from mdmt.config import FederationConfig

_CARDS = 4
"""Site cards: one, and one for each change of the data or of the machine."""


def usual_messages(federation: FederationConfig) -> int:
    """Return the messages of one run, its final test, its references and a repeat of its rounds.

    The final test has a message for the last round, and for the best round of each task.
    """
    final_test = 1 + len(federation.tasks)
    references = 1 if federation.references else 0
    return 2 * federation.training.rounds + final_test + references + _CARDS
