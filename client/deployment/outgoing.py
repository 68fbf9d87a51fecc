"""What a plan sends: each kind of message, its size, and how many patients stand behind it."""

from __future__ import annotations

from typing import NamedTuple

from client.deployment.plan_facts import Facts

_REPORT = 0.01
"""MB. Largest usual size of a message without arrays."""


class Outgoing(NamedTuple):
    """A kind of message that leaves the site."""

    kind: str
    content: str
    messages: int
    """Largest number in one run."""
    megabytes: float
    """Size of one message, 10^6 bytes."""
    patients: str
    """Whose data is behind one message."""


def outgoing(facts: Facts) -> list[Outgoing]:
    """List the messages of one run."""
    federation = facts.plan.federation
    tested = min(federation.training.rounds, 1 + len(federation.tasks))
    kinds = [_card(facts)]
    if federation.privacy.secure_aggregation:
        everybody = f"{facts.training_patients[1]} (train)"
        content = "public key of the run and numbers of labels, signed"
        kinds.append(Outgoing("key", content, 1, _REPORT, everybody))
    kinds.append(_round(facts))
    content = "metrics on test" if facts.private else "metrics on val and test"
    kinds.append(Outgoing("final test", content, tested, _REPORT, _held(facts)))
    if federation.references:
        names = " and ".join(federation.references)
        content = f"metrics of the references {names}"
        kinds.append(Outgoing("references", content, 1, _REPORT, _held(facts)))
    return kinds


def _card(facts: Facts) -> Outgoing:
    if facts.private:
        return Outgoing("site card", "name, tasks, device, versions", 1, _REPORT, "nobody")
    policy = facts.plan.site.policy
    counts = "numbers of images and labels, " if policy.report_counts else ""
    histogram = "how often each label occurs, " if policy.report_histogram else ""
    content = f"name, tasks, {counts}{histogram}device, versions"
    patients = f"{facts.training_patients[1]} (train), {_held(facts)}"
    return Outgoing("site card", content, 1, _REPORT, patients)


def _round(facts: Facts) -> Outgoing:
    federation = facts.plan.federation
    fewest, everybody = facts.training_patients
    shared = " and heads" if federation.aggregation.heads == "shared" else ""
    content = f"trained backbone{shared}"
    content += ", with noise" if facts.private else ", mean losses, metrics on val"
    if federation.privacy.secure_aggregation:
        content = f"masked: {content}"
    patients = f"{fewest} (batches), {facts.patients('val')} (val)"
    if facts.private:
        patients = f"drawn from {everybody} (train)"
    size = facts.update_bytes / 1e6 + _REPORT
    return Outgoing("round", content, federation.training.rounds, size, patients)


def _held(facts: Facts) -> str:
    test = f"{facts.patients('test')} (test)"
    return test if facts.private else f"{facts.patients('val')} (val), {test}"
