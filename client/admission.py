"""Which orders a site runs: those of an approved recipe, within the site's policy.

An order is admitted, or nothing happens: the recipe is compared with the approved ones before it is
parsed, so that nothing in it opens data or imports the code of a plug-in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable

from client.policy import check_order, check_threads
from mdmt.config import FederationConfig, SiteConfig, parse_recipe
from mdmt.config.site import Policy
from mdmt.config.training import Plateau
from mdmt.data.cohort import Cohort
from mdmt.errors import PolicyError
from mdmt.messages import EvaluateOrder, KeyOrder, Query, ReferenceOrder, TrainOrder
from mdmt.registry import permit_plugins

Order = Query | KeyOrder | TrainOrder | EvaluateOrder | ReferenceOrder
_SHOWN = 16
"""Digits of a hash in an error, which the server cuts to 200 characters."""


def admit(site: SiteConfig, order: Order) -> FederationConfig:
    """Return the recipe of an order that the site may run. This needs no data.

    Raises
    ------
    PolicyError
        Nobody approved the recipe at this site, or the policy forbids it or the order.
    ConfigError
        The recipe cannot be read.
    """
    policy = site.policy
    check_approved(policy, order.recipe)
    with permit_plugins(policy.plugins):
        federation = parse_recipe(order.recipe)
    number = 0 if isinstance(order, Query | KeyOrder) else order.round
    tasks = order.coefficients if isinstance(order, TrainOrder) else ()
    check_order(policy, federation, number, tasks)
    if isinstance(order, TrainOrder) and policy.recipes is not None:
        check_rate(order.lr_factor, federation)
    if site.threads is None:
        check_threads(policy, federation)
    if policy.recipes is not None and federation.recipe != order.recipe:
        raise PolicyError(
            "policy: recipes: the recipe is not in canonical form; the versions of mdmt at the"
            " server and at this site may differ"
        )
    return federation


def check_rate(factor: float, federation: FederationConfig) -> None:
    """Refuse a factor on the learning rate that the schedule of the recipe cannot give.

    With a rate near 0 the model does not move during a round. Then the losses of two rounds show
    how many patients have a label.

    Raises
    ------
    PolicyError
    """
    scheduler, rounds = federation.training.scheduler, federation.training.rounds
    possible = [1.0]
    if isinstance(scheduler, Plateau):
        possible = [scheduler.gamma**times for times in range(rounds // scheduler.patience + 1)]
    if not any(math.isclose(factor, value, rel_tol=1e-9) for value in possible):
        raise PolicyError(
            f"the rate factor {factor:g} is none that training.scheduler of the recipe can give"
        )


def check_approved(policy: Policy, recipe: str) -> None:
    """Refuse a recipe that is not one of `policy.recipes`, by the SHA-256 of its text.

    Raises
    ------
    PolicyError
    """
    if policy.recipes is None:
        return
    found = hashlib.sha256(recipe.encode()).hexdigest()
    if found not in policy.recipes:
        raise PolicyError(
            f"policy: recipes does not list {found[:_SHOWN]}; the engineer of this site must read"
            " and approve it: mdmt site approve"
        )


def check_tasks(order: TrainOrder, cohort: Cohort, tasks: Iterable[str]) -> None:
    """Refuse an order that trains only some of the tasks that the site has labels of.

    An order with one task would use other images than the approved recipe.

    Parameters
    ----------
    order : TrainOrder
    cohort : Cohort
    tasks : iterable of str
        Tasks of the site.

    Raises
    ------
    PolicyError
    """
    tasks = tuple(tasks)
    labelled = {task for task in tasks if cohort.manifest.labelled(task, "train")}
    if not labelled <= order.coefficients.keys() <= set(tasks):
        raise PolicyError(
            "the order must have a coefficient for each task of this site that has training"
            f" labels, and for no other task; its tasks are {', '.join(tasks)}"
        )
