"""The limits of a policy that a plan exceeds, before a server is asked."""

from __future__ import annotations

from client.budget import open_budget
from client.deployment.outgoing import outgoing
from client.deployment.plan_facts import Facts
from client.policy import check_data, check_order, check_threads
from mdmt.config.site import Policy
from mdmt.errors import PolicyError
from mdmt.privacy.accounting import epsilon, recipe_mechanism
from mdmt.privacy.ledger import open_ledger

_PEERS = 2
"""Fewest other sites under secure aggregation: with one, the sum shows its update."""


def refusals(facts: Facts) -> list[str]:
    """Return a sentence for each key of the policy that would refuse the recipe once approved.

    Each key is tried alone, because a check stops at the first that refuses.
    """
    plan = facts.plan
    found: list[str] = []
    for key in Policy.model_fields:
        if key == "recipes":
            continue
        alone = Policy.model_validate({key: getattr(plan.site.policy, key)})
        for limit in (_order, _data, _size, _messages, _patients, _machine, _epsilon, _peers):
            try:
                limit(alone, facts)
            except PolicyError as error:
                found.append(str(error))
    return list(dict.fromkeys(found))


def _order(policy: Policy, facts: Facts) -> None:
    check_order(policy, facts.plan.federation, tasks=facts.plan.tasks)


def _data(policy: Policy, facts: Facts) -> None:
    check_data(policy, facts.plan.federation, facts.plan.cohort, facts.plan.tasks)


def _size(policy: Policy, facts: Facts) -> None:
    _at_most("max_upload", policy.max_upload, facts.update_bytes / 1e6, "MB")


def _messages(policy: Policy, facts: Facts) -> None:
    limit, needed = policy.max_messages, sum(kind.messages for kind in outgoing(facts))
    spent = open_budget(facts.plan.site).spent(facts.plan.sha256)
    if limit is not None and spent + needed > limit:
        earlier = f", {spent} were sent" if spent else ""
        raise PolicyError(
            f"policy: max_messages allows {limit} messages{earlier}, a run needs {needed}"
        )


def _patients(policy: Policy, facts: Facts) -> None:
    least, fewest = policy.min_patients_per_update, facts.training_patients[0]
    if fewest < least:
        raise PolicyError(
            f"policy: min_patients_per_update asks for {least} patients, a round has {fewest}"
        )


def _machine(policy: Policy, facts: Facts) -> None:
    if facts.plan.site.threads is None:
        check_threads(policy, facts.plan.federation)
    _at_most("max_cache", policy.max_cache, facts.cache_bytes / 1e9, "GB")


def _epsilon(policy: Policy, facts: Facts) -> None:
    mechanism = recipe_mechanism(facts.plan.federation)
    if policy.max_epsilon is None or mechanism is None:
        return
    ledger, delta = open_ledger(facts.plan.site), facts.plan.site.policy.delta
    begun = ledger.path.with_name("dp.secret").exists()  # made with the ledger
    spent = [entry.mechanism for entry in ledger.entries()] if begun else []
    total = epsilon([*spent, mechanism], delta)
    if not total <= policy.max_epsilon:
        earlier = f"with {epsilon(spent, delta):.2f} that is spent, " if spent else ""
        raise PolicyError(
            f"policy: max_epsilon allows {policy.max_epsilon:g}, {earlier}this recipe needs"
            f" {total:.2f}"
        )


def _peers(policy: Policy, facts: Facts) -> None:
    peers = facts.plan.site.policy.peers or {}  # whatever key is tried
    if facts.plan.federation.privacy.secure_aggregation and len(peers) < _PEERS:
        raise PolicyError(
            f"policy: peers lists {len(peers)} other sites, secure aggregation needs at least"
            f" {_PEERS}"
        )


def _at_most(key: str, limit: float | None, asked: float, unit: str) -> None:
    if limit is not None and asked > limit:
        raise PolicyError(f"policy: {key} allows {limit:g} {unit}, this recipe needs {asked:.4g}")
