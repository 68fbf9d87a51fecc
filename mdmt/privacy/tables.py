"""The table of a round with secure aggregation: the server sends it, each site computes it again.

It says how the updates of all sites enter the sum. It follows from the recipe, from the signed
counts and from the factor on the learning rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from mdmt.config import FederationConfig
from mdmt.messages import KeyStatement, SecureRound
from mdmt.models import head_task
from mdmt.privacy.fixed_point import FixedPoint, largest_exponent
from mdmt.weighting import array_weights, loss_coefficients

MIN_SITES = 3
"""With two sites, each one computes the update of the other from the sum."""
_BACKBONE = "backbone"


def part_of(array: str) -> str:
    """Return the part of the model that an array belongs to, as the table names it."""
    task = head_task(array)
    return _BACKBONE if task is None else f"heads.{task}"


def round_table(
    config: FederationConfig, statements: Mapping[str, KeyStatement], lr_factor: float
) -> SecureRound:
    """Compute the table of a round.

    Parameters
    ----------
    config : FederationConfig
    statements : mapping of str to KeyStatement
        Statements of all sites by name.
    lr_factor : float
    """
    sites = {name: statements[name] for name in sorted(statements)}
    shared = config.tasks if config.aggregation.heads == "shared" else ()
    parts = (_BACKBONE, *(f"heads.{task}" for task in shared))
    bound = config.privacy.update_bound
    return SecureRound(
        statements=sites,
        weights=array_weights(config, [*sites.values()], parts),
        coefficients=loss_coefficients(config, sites),
        lr_factor=lr_factor,
        bound=bound,
        exponent=largest_exponent(len(sites), bound),
    )


def fixed_point(table: SecureRound) -> FixedPoint:
    """Return the integers of a round."""
    return FixedPoint(len(table.statements), table.bound, table.exponent)


def cohort_problem(config: FederationConfig, statements: Mapping[str, KeyStatement]) -> str | None:
    """Return the reason why the sum over these sites shows too much, or None."""
    if len(statements) < MIN_SITES:
        return f"secure aggregation needs {MIN_SITES} sites, there are {len(statements)}"
    if config.aggregation.heads == "shared":
        for task in config.tasks:
            labelled = sum(of.labels(task) != 0 for of in statements.values())
            if labelled < MIN_SITES:
                return (
                    f"secure aggregation of the shared head of {task} needs {MIN_SITES} sites with"
                    f" training labels, there are {labelled}; use aggregation.heads: local"
                )
    return None


def transcript(
    recipe: str,
    run: str,
    number: int,
    blob: bytes,
    table: SecureRound,
    frozen: str | None = None,
) -> bytes:
    """Return T: the SHA-256 of everything that the sites of a round must agree on.

    Parameters
    ----------
    recipe : str
        SHA-256 of the recipe.
    run : str
    number : int
        The round.
    blob : bytes
        The broadcast arrays. All sites get the same bytes.
    table : SecureRound
    frozen : str or None
        SHA-256 of the frozen arrays.
    """
    agreed = {
        "recipe": recipe,
        "run": run,
        "round": number,
        "arrays": hashlib.sha256(blob).hexdigest(),
        "frozen": frozen,
        "table": table.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).digest()
