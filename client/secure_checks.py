"""What a site checks before it masks an update: the other sites, and the table of the round."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from client.secure_store import Cohort, SecureStore
from mdmt.config import FederationConfig, SiteConfig
from mdmt.errors import PolicyError
from mdmt.messages import KeyStatement, SecureRound, TrainOrder
from mdmt.privacy.statements import signer_of
from mdmt.privacy.tables import cohort_problem, round_table

_ROUNDING = 1e-9
"""Largest accepted difference of a sum of weights from 1."""


def check_cohort(
    site: SiteConfig,
    federation: FederationConfig,
    order: TrainOrder,
    table: SecureRound,
    store: SecureStore,
) -> None:
    """Verify the statements of all sites in the first round; later they must be the same.

    Raises
    ------
    PolicyError
    """
    statements = {name: of.model_dump(mode="json") for name, of in table.statements.items()}
    digest = hashlib.sha256(json.dumps(statements, sort_keys=True).encode()).hexdigest()
    cohort = store.cohort()
    if cohort is None:
        own = store.statement()
        if own is None or table.statements.get(site.name) != own:
            raise PolicyError("secure aggregation: the statement of this site is not in the table")
        if problem := cohort_problem(federation, table.statements):
            raise PolicyError(problem)
        cohort = Cohort(digest=digest, signers=_signers(federation, order.run, table.statements))
        _check_known(site, cohort)
        store.write_cohort(cohort)
    elif cohort.digest != digest:
        raise PolicyError("secure aggregation: the sites or their keys changed within the run")
    else:
        _check_known(site, cohort)  # the policy may have changed


def check_table(
    site: SiteConfig, federation: FederationConfig, order: TrainOrder, table: SecureRound
) -> None:
    """Compute the table again, and check the weights and the own entry."""
    if table != round_table(federation, table.statements, order.lr_factor):
        raise PolicyError(
            "secure aggregation: the weights, coefficients or bounds of the table do not follow"
            " from the recipe and the signed counts"
        )
    if order.coefficients != table.coefficients[site.name]:
        raise PolicyError("secure aggregation: the order has other coefficients than its table")
    largest = site.policy.max_peer_weight
    for part in sorted({part for of in table.weights.values() for part in of}):
        weights = {name: of[part] for name, of in table.weights.items() if part in of}
        if abs(sum(weights.values()) - 1) > _ROUNDING:
            raise PolicyError(f"secure aggregation: the weights of {part} do not sum to 1")
        first = max(weights, key=lambda name: weights[name])
        if weights[first] > largest:
            raise PolicyError(
                f"policy: max_peer_weight allows {largest:g}, site {first} has {weights[first]:.3f}"
                f" of {part}: the sum would show its update"
            )


def _signers(
    federation: FederationConfig, run: str, statements: Mapping[str, KeyStatement]
) -> dict[str, str]:
    """Return the fingerprint of the key of each site. Its statement must be of this run."""
    signers: dict[str, str] = {}
    keys = set[str]()
    for name, statement in statements.items():
        where = f"secure aggregation: the statement of site {name}"
        if (statement.name, statement.recipe, statement.run) != (name, federation.hash, run):
            raise PolicyError(f"{where} is of another site, recipe or run")
        if not federation.tasks.keys() >= set(statement.tasks):
            raise PolicyError(f"{where} names a task that the recipe lacks")
        try:
            signer = signer_of(statement)
        except ValueError as error:
            raise PolicyError(f"{where} {error}") from error
        if signer in signers.values() or statement.key in keys:
            raise PolicyError(f"{where} has the key of another site")
        signers[name] = signer
        keys.add(statement.key)
    return signers


def _check_known(site: SiteConfig, cohort: Cohort) -> None:
    """Refuse other sites than those of the policy, or fewer. A simulated site knows no keys.

    Fewer would do for the masks. But the sums of two runs, one with all sites and one without one
    of them, show the update of this one.
    """
    peers = site.policy.peers
    if peers is None and site.policy.recipes is None:
        return
    for name, signer in cohort.signers.items():
        if name != site.name and (peers or {}).get(name) != signer:
            raise PolicyError(
                f"policy: peers does not list site {name} with its key {signer}; compare it with"
                " the engineer of this site"
            )
    if missing := sorted((peers or {}).keys() - cohort.signers.keys()):
        raise PolicyError(
            f"policy: peers lists site {missing[0]}, which is not in this run: the sums of two"
            " runs, with it and without it, would show its update"
        )
