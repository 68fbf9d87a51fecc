"""Check recipes, orders, messages and app bundles against the site's policy; limit the memory.

This module imports nothing slow, because the launcher calls it before it runs anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mdmt.config import FederationConfig
from mdmt.config.site import Policy
from mdmt.errors import PolicyError
from mdmt.messages import LONGEST_REPORT
from mdmt.privacy.accounting import private_steps
from mdmt.registry import permit_plugins

if TYPE_CHECKING:
    from mdmt.data.cohort import Cohort


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
    """Refuse a recipe or an order that the policy does not allow. This needs no data.

    Parameters
    ----------
    policy : Policy
    federation : FederationConfig
        The recipe.
    round_number : int
        Round of the order; 0 at registration. The recipe must have this round.
    tasks : iterable of str
        Tasks that the order trains.

    Raises
    ------
    PolicyError
    """
    _check_listed("federations", policy.federations, federation.name)
    _check_listed("backbones", policy.backbones, federation.model.backbone)
    if policy.max_epsilon is not None and federation.privacy.dp is None:
        raise PolicyError("policy: max_epsilon needs a federation with privacy.dp")
    for task in tasks:
        _check_listed("tasks", policy.tasks, task)
    check_plugins(policy, federation)
    if policy.secure_aggregation and not federation.privacy.secure_aggregation:
        raise PolicyError("policy: secure_aggregation is required, the recipe does not use it")
    _check_at_most("max_rounds", policy.max_rounds, federation.training.rounds)
    if round_number > federation.training.rounds:
        raise PolicyError(
            f"the recipe has {federation.training.rounds} rounds, the order is for round"
            f" {round_number}"
        )
    dp = federation.privacy.dp
    if dp is not None:
        passes = private_steps(federation) * dp.sample_rate
        _check_at_most("max_local_epochs", policy.max_local_epochs, passes)
    elif federation.training.local_steps is None:
        epochs = federation.training.local_epochs or 1
        _check_at_most("max_local_epochs", policy.max_local_epochs, epochs)


def check_threads(policy: Policy, federation: FederationConfig) -> None:
    """Refuse more CPU threads than the policy allows.

    Raises
    ------
    PolicyError
    """
    _check_at_most("max_threads", policy.max_threads, federation.training.threads)


def check_plugins(policy: Policy, federation: FederationConfig) -> None:
    """Refuse a backbone of a package that is not listed, before its code is imported.

    The task kinds and the algorithm are looked up when the recipe is parsed. Therefore also parse
    it within `permit_plugins`.

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
    """Refuse training with too few examples or too many steps.

    Raises
    ------
    PolicyError
        The message contains neither the number of examples nor the steps of an epoch.
    """
    from mdmt.data.batches import batches_per_epoch
    from mdmt.training import steps_per_round

    tasks = tuple(tasks)
    for task in tasks:
        if cohort.manifest.labelled_images(task, "train") < policy.min_examples:
            raise PolicyError(
                f"policy: min_examples asks for {policy.min_examples} labelled training images of"
                f" a task, {task} has fewer"
            )
    training, limit = federation.training, policy.max_local_epochs
    if limit is None or federation.privacy.dp is not None:
        return
    images = len(cohort.training_indices(tasks))
    batches = steps_per_round(training, images)
    steps = federation.algorithm.round_steps(batches)
    if steps > limit * batches_per_epoch(images, training.batch_size):
        key = "local_epochs" if training.local_steps is None else "local_steps"
        more = f" and algorithm {federation.algorithm.name}" if steps > batches else ""
        raise PolicyError(
            f"policy: max_local_epochs allows {limit:g}, the federation asks for more with"
            f" {key} {getattr(training, key) or 1} of batch_size {training.batch_size}{more}"
        )


def check_upload(policy: Policy, report: str, blob: bytes) -> None:
    """Refuse to send a message that is too large.

    Parameters
    ----------
    policy : Policy
    report : str
        A report or a site card, as JSON.
    blob : bytes
        Encoded arrays; empty without an update.

    Raises
    ------
    PolicyError
    """
    if len(report) > LONGEST_REPORT:
        raise PolicyError(f"the report has {len(report)} characters, more than {LONGEST_REPORT}")
    size = len(report.encode()) + len(blob)
    if policy.max_upload is not None and size > policy.max_upload * 1e6:
        raise PolicyError(
            f"policy: max_upload allows {policy.max_upload:g} MB, the reply has {size} bytes"
        )


def cap_memory(policy: Policy, device: str) -> None:
    """Limit the memory of this process to `max_memory`: on a GPU torch's share, else its data.

    A larger allocation then fails, as on a smaller machine. The process cannot raise the limit
    again. A simulation does not set it, because its sites share a process.

    Parameters
    ----------
    policy : Policy
    device : str
        The key `device` of the site.
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
    import resource  # not available on Windows

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _check_listed(key: str, allowed: tuple[str, ...] | None, asked: str) -> None:
    """Refuse a name that is not listed. The message does not contain the list."""
    if allowed is not None and asked not in allowed:
        raise PolicyError(f"policy: {key} does not list {asked[:64]!r}")


def _check_at_most(key: str, limit: float | None, asked: float) -> None:
    if limit is not None and asked > limit:
        raise PolicyError(f"policy: {key} allows {limit:g}, the federation asks for {asked:g}")
