"""What a site's policy refuses: recipes, orders, messages, app bundles; and its memory cap.

Imports nothing heavy: the launcher asks before it lets anything run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mdmt.config import FederationConfig
from mdmt.config.policy import Policy
from mdmt.errors import PolicyError
from mdmt.messages import content_bytes
from mdmt.registry import permit_plugins

if TYPE_CHECKING:
    from flwr.app import RecordDict

    from mdmt.data.cohort import Cohort

__all__ = [
    "cap_memory",
    "check_app",
    "check_data",
    "check_order",
    "check_plugins",
    "check_upload",
]


def check_app(policy: Policy, sha256: str) -> None:
    """Refuse an app bundle that is not listed.

    Raises
    ------
    PolicyError
    """
    _check_listed("apps", policy.apps, sha256)


def check_order(
    policy: Policy,
    federation: FederationConfig,
    round_number: int = 0,
    tasks: Iterable[str] = (),
) -> None:
    """Refuse what a recipe and an order ask beyond the policy; needs no data.

    Parameters
    ----------
    policy : Policy
    federation : FederationConfig
        The recipe.
    round_number : int
        Of the order; 0 at registration.
    tasks : iterable of str
        That the order wants trained.

    Raises
    ------
    PolicyError
    """
    _check_listed("federations", policy.federations, federation.name)
    _check_listed("backbones", policy.backbones, federation.model.backbone)
    for task in tasks:
        _check_listed("tasks", policy.tasks, task)
    check_plugins(policy, federation)
    _check_at_most("max_rounds", policy.max_rounds, max(federation.training.rounds, round_number))
    if federation.training.local_steps is None:
        epochs = federation.training.local_epochs or 1
        _check_at_most("max_local_epochs", policy.max_local_epochs, epochs)


def check_plugins(policy: Policy, federation: FederationConfig) -> None:
    """Refuse a backbone of an installed package that is not listed, before its code is imported.

    Task kinds and the algorithm are looked up while the recipe is parsed: parse it within
    `permit_plugins` too.

    Raises
    ------
    PolicyError
    """
    if policy.plugins is None:
        return
    from mdmt.models.backbones import builder_of

    with permit_plugins(policy.plugins):
        builder_of(federation.model)


def check_data(
    policy: Policy, federation: FederationConfig, cohort: Cohort, tasks: Iterable[str]
) -> None:
    """Refuse what depends on how much data there is: too few examples, too many steps.

    Raises
    ------
    PolicyError
        It tells neither how many examples there are nor how many steps an epoch has.
    """
    from mdmt.data.batches import batches_per_epoch

    tasks = tuple(tasks)
    for task in tasks:
        if cohort.manifest.labelled_images(task, "train") < policy.min_examples:
            raise PolicyError(
                f"policy: min_examples asks for {policy.min_examples} labelled training images of"
                f" a task, {task} has fewer"
            )
    steps, limit = federation.training.local_steps, policy.max_local_epochs
    if steps is None or limit is None:
        return
    images = len(cohort.training_indices(tasks))
    if steps > limit * batches_per_epoch(images, federation.training.batch_size):
        raise PolicyError(
            f"policy: max_local_epochs allows {limit:g}, the federation asks for more with"
            f" local_steps {steps} of batch_size {federation.training.batch_size}"
        )


def check_upload(policy: Policy, content: RecordDict) -> None:
    """Refuse to send a message that is too large.

    Raises
    ------
    PolicyError
    """
    size = content_bytes(content)
    if policy.max_upload is not None and size > policy.max_upload * 1e6:
        raise PolicyError(
            f"policy: max_upload allows {policy.max_upload:g} MB, the reply has {size} bytes"
        )


def cap_memory(policy: Policy, device: str) -> None:
    """Limit this process to `max_memory`: on a GPU what torch may take of it, else its own data.

    An allocation beyond the limit then fails as on a machine that has no more. The limit cannot be
    lifted again by what runs in this process later, so a simulation, whose sites share a process,
    does not set it.

    Parameters
    ----------
    policy : Policy
    device : str
        As in the site's file.
    """
    if policy.max_memory is None:
        return
    from mdmt.training import resolve_device

    limit = int(policy.max_memory * 1e9)
    place = resolve_device(device)
    if place.type == "cuda":
        import torch

        index = place.index or 0
        whole = torch.cuda.get_device_properties(index).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / whole), index)
        return
    import resource  # there is none on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _check_listed(key: str, allowed: tuple[str, ...] | None, asked: str) -> None:
    """Refuse a name that is not listed; the list is not told: it may name others."""
    if allowed is not None and asked not in allowed:
        raise PolicyError(f"policy: {key} does not list {asked[:64]!r}")


def _check_at_most(key: str, limit: float | None, asked: int) -> None:
    if limit is not None and asked > limit:
        raise PolicyError(f"policy: {key} allows {limit:g}, the federation asks for {asked}")
