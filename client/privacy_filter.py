"""The privacy filter: values that the policy withholds, and small counts, become None."""

from __future__ import annotations

import platform
from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import version

import numpy as np

from mdmt.config import FederationConfig, SiteConfig
from mdmt.config.site import Policy
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import SPLITS, Manifest, Split
from mdmt.evaluation import Held
from mdmt.messages import Histogram, Metrics, SiteCard, TrainOrder, TrainReport
from mdmt.metrics import is_class_count, is_count
from mdmt.training import TrainingResult, resolve_device


def site_card(site: SiteConfig, federation: FederationConfig, cohort: Cohort) -> SiteCard:
    """Return the site card: tasks and counts of labels."""
    policy, manifest = site.policy, cohort.manifest
    packages = ("mdmt", "torch", "timm", "flwr")
    return SiteCard(
        name=site.name,
        federation=federation.hash,
        tasks={name: task.space for name, task in site.offered.items()},
        images=_images(policy, manifest, site.offered),
        counts=_counts(policy, manifest, site.offered),
        histogram=_histograms(site, manifest),
        data=cohort.fingerprint(),
        device=str(resolve_device(site.device)),
        versions={"python": platform.python_version()} | {p: version(p) for p in packages},
    )


def train_report(
    site: SiteConfig,
    order: TrainOrder,
    cohort: Cohort,
    validation: Metrics,
    result: TrainingResult,
    withheld: Collection[str] = (),
    *,
    seconds: float,
    new_memory: bool,
) -> TrainReport:
    """Return the report of a round.

    Parameters
    ----------
    site : SiteConfig
    order : TrainOrder
    cohort : Cohort
    validation : Metrics
        Of the received model.
    result : TrainingResult
    withheld : collection of str
        Tasks with too few patients in the batches of the round.
    seconds : float
    new_memory : bool
    """
    policy, manifest = site.policy, cohort.manifest
    few = {*withheld, *(t for t in site.offered if _few(policy, manifest, t, "train"))}
    reported = policy.report_counts and not few
    # A loss is a sum over labels: it would show how often a label occurs.
    hidden = {t for t, columns in _histograms(site, manifest).items() if None in columns.values()}
    return TrainReport(
        site=site.name,
        round=order.round,
        validation=reported_metrics(policy, manifest, validation, "val"),
        losses={t: None if t in few | hidden else result.losses.get(t) for t in site.offered},
        images=result.images if reported else None,
        steps=result.steps if reported else None,
        seconds=seconds,
        new_memory=new_memory,
    )


def reported_metrics(
    policy: Policy, manifest: Manifest, metrics: Metrics, *splits: Split
) -> Metrics:
    """Withhold the metrics of tasks with too few labels on one of `splits`.

    All keys stay. ``task/examples`` and ``task/patients`` become None too, unless they are 0. The
    patients of each class are withheld like a histogram.
    """
    tasks = {key.partition("/")[0] for key in metrics}
    few = {task for task in tasks for split in splits if _few(policy, manifest, task, split)}
    smallest = max(policy.min_examples_per_metric, policy.min_patients_per_update)
    hidden = few if policy.report_counts and policy.report_histogram else tasks
    hidden = hidden | {  # the other counts would show the small one
        task
        for task, _, metric in (key.partition("/") for key in metrics)
        if is_class_count(metric) and (metrics[f"{task}/{metric}"] or 0) < smallest
    }

    def reported(key: str, value: float | int | None) -> float | int | None:
        task, _, metric = key.partition("/")
        if is_class_count(metric):
            return None if task in hidden else value
        if is_count(metric):
            return value if not value or (policy.report_counts and task not in few) else None
        return None if task in few else value

    return {key: reported(key, value) for key, value in metrics.items()}


def reported_splits(
    policy: Policy, manifest: Manifest, metrics: Mapping[Held, Metrics], *others: Split
) -> dict[Held, Metrics]:
    """Apply `reported_metrics` to each split; the metrics may rest on `others` too."""
    return {s: reported_metrics(policy, manifest, m, s, *others) for s, m in metrics.items()}


def _few(policy: Policy, manifest: Manifest, task: str, split: Split) -> bool:
    """Return True if a metric of `task` on `split` uses too few images or patients, but not none.

    A metric of one output uses the images with this output. A metric of the sum over outputs uses
    the images with all outputs.
    """
    indices = manifest.indices(split)
    present = np.isfinite(manifest.targets[task][indices])
    supports = [*present.T, present.all(axis=1)]
    if any(0 < support.sum() < policy.min_examples_per_metric for support in supports):
        return True
    minimum, patients = policy.min_patients_per_update, manifest.patients[indices]
    if not minimum:
        return False
    return any(0 < len(np.unique(patients[support])) < minimum for support in supports)


def _counts(
    policy: Policy, manifest: Manifest, tasks: Iterable[str]
) -> dict[str, dict[str, int | None]]:
    """Return n_{s,t} by task and split; None if withheld. 0 is always reported."""

    def count(task: str, split: Split) -> int | None:
        n = manifest.labelled(task, split)
        withheld = not policy.report_counts or _few(policy, manifest, task, split)
        return None if n and withheld else n

    return {task: {split: count(task, split) for split in SPLITS} for task in tasks}


def _images(policy: Policy, manifest: Manifest, tasks: Iterable[str]) -> dict[str, int | None]:
    """Return images by split; None if a withheld count of labels could be computed from it."""
    counts = _counts(policy, manifest, tasks)
    images: dict[str, int | None] = {}
    for split in SPLITS:
        n = len(manifest.indices(split))
        withheld = not policy.report_counts or 0 < n < policy.min_examples_per_metric
        withheld = withheld or any(of_task[split] is None for of_task in counts.values())
        images[split] = None if n and withheld else n
    return images


def _histograms(site: SiteConfig, manifest: Manifest) -> dict[str, Histogram]:
    """Return histograms of training labels; None for a column with a cell that is too small.

    All cells of the column are withheld, because the missing cell could be computed from the other
    cells and the total. An empty cell is small too: it shows which label no patient has.
    """
    policy, train = site.policy, manifest.indices("train")
    reported: dict[str, Histogram] = {}
    for name, task in site.offered.items():
        withheld = not (policy.report_counts and policy.report_histogram)
        withheld = withheld or _few(policy, manifest, name, "train")
        reported[name] = {
            column: None
            if withheld or min(cells.values()) < policy.min_examples_per_metric
            else cells
            for column, cells in task.space.histogram(manifest.targets[name][train]).items()
        }
    return reported
