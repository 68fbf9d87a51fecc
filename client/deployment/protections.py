"""What an attacker can learn from what a site sends, with and without each protection.

The sentences are for an engineer who decides. They say what a protection does not do, too.
"""

from __future__ import annotations

from typing import NamedTuple

from client.deployment.plan_facts import Facts
from mdmt.privacy.accounting import describe_cost

COORDINATOR = (
    "The coordinator is the attacker here: whoever runs the server, or broke into it. Everybody"
    " else sees only TLS."
)


class Protection(NamedTuple):
    """A protection, whether it is on, and what follows from that."""

    name: str
    on: bool
    consequence: str


def protections(facts: Facts) -> list[Protection]:
    """List the protections of a plan, from the policy of the site and from the recipe."""
    return [*_of_policy(facts), *_of_recipe(facts)]


def _of_policy(facts: Facts) -> list[Protection]:
    policy = facts.plan.site.policy
    return [
        Protection(
            "approval",
            True,
            "Only approved recipes run. A recipe that is made to read images, such as one with a"
            " batch of one image, first needs your yes.",
        ),
        _either(
            "patients per update",
            policy.min_patients_per_update,
            "A round with fewer than {} patients sends nothing. One with more still may tell"
            " something about single patients.",
            "An update may come from one patient. The image can then be computed from it.",
        ),
        _either(
            "message budget",
            policy.max_messages,
            "After {} messages of this recipe the site sends nothing more.",
            "A run can be repeated without end. Differences between runs tell about patients that"
            " came or went.",
        ),
        _either(
            "small counts",
            policy.min_examples_per_metric,
            "A metric, loss or count of fewer than {} images is withheld.",
            "A metric of one image tells its label.",
        ),
    ]


def _of_recipe(facts: Facts) -> list[Protection]:
    privacy = facts.plan.federation.privacy
    fewest = facts.training_patients[0]
    cost = describe_cost(facts.plan.federation, facts.plan.site.policy.delta)
    return [
        Protection(
            "secure aggregation",
            privacy.secure_aggregation,
            "The coordinator reads only the sum of all sites. With arrays made for it, the sum"
            " shows parts of images, but not of which site. A coordinator together with all"
            " other sites can compute your update."
            if privacy.secure_aggregation
            else f"The coordinator reads your update by itself, of at least {fewest} patients. The"
            " fewer they are, the more of their images can be computed from it. No number of"
            " patients is known to be safe.",
        ),
        Protection(
            "differential privacy",
            cost is not None,
            f"What one training patient can change in all messages of a run is bounded: {cost}. An"
            " ε above 10 promises little. Metrics of test patients have no noise."
            if cost is not None
            else "No bound exists. Whoever has an image of a patient may find out, from an update"
            " or from the published model, whether it was used in the training.",
        ),
    ]


def _either(name: str, limit: int | None, on: str, off: str) -> Protection:
    return Protection(name, bool(limit), on.format(limit) if limit else off)
