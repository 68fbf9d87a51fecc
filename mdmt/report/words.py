"""How a report writes numbers and names; paths are cut to their last part."""

from __future__ import annotations

import re
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from mdmt.results.predictions import ALL
from mdmt.tasks import Task

if TYPE_CHECKING:
    from mdmt.config import FederationConfig

_NAMES = {
    "auroc": "AUROC",
    "brier": "Brier score",
    "f1": "F1",
    "gmean": "G-mean",
    "kappa": "weighted kappa",
    "mae": "MAE",
    "mse": "MSE",
    "pearson": "Pearson r",
    "r2": "R²",
    "sd": "SD of error",
}


def at(task: str, site: str) -> str:
    """Write a task with its site, or with all of them.

    Examples
    --------
    >>> at("prognosis", "hospital"), at("prognosis", "all")
    ('prognosis at hospital', 'prognosis at all sites together')
    """
    return f"{task} at {'all sites together' if site == ALL else site}"


def task_title(config: FederationConfig, task: str) -> str:
    """Return the title of a task in its configuration, or its name."""
    return config.tasks[task].title or task


def measure(space: Task, metric: str) -> str:
    """Name of a metric, with the unit of the task if it has one.

    Examples
    --------
    >>> from mdmt.tasks import Regression
    >>> age = Regression(outputs=("age",), range=(0, 100), unit="years")
    >>> measure(age, "mae"), measure(age, "r2")
    ('MAE (years)', 'R²')
    """
    has_unit = space.units and metric.partition("_")[0] in ("mae", "sd")
    return f"{metric_name(metric)} ({space.units})" if has_unit else metric_name(metric)


def metric_name(metric: str) -> str:
    """Name of a metric in a table.

    Examples
    --------
    >>> metric_name("auroc"), metric_name("mae_A"), metric_name("sum_mae")
    ('AUROC', 'MAE A', 'MAE of global score')
    >>> metric_name("balanced_accuracy")
    'balanced accuracy'
    """
    if metric.startswith("sum_"):
        return f"{metric_name(metric.removeprefix('sum_'))} of global score"
    stem, _, output = metric.partition("_")
    return f"{_NAMES.get(stem, stem)} {output}".strip()


def signed(value: float, digits: int = 3) -> str:
    """Write a difference with its sign; the minus is as wide as the plus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def probability(p: float | None) -> str:
    """Write a p-value.

    Examples
    --------
    >>> probability(0.04321), probability(1e-5), probability(None)
    ('0.043', '<0.001', '-')
    """
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def reported(number: int | None) -> str:
    """Write a number, or ``-`` if the site's policy withholds it."""
    return "-" if number is None else f"{number:,}"


def count(number: int | None, one: str) -> str:
    """Write a number with its noun; the site's policy may withhold the number.

    Examples
    --------
    >>> count(1, "site"), count(2000, "site"), count(None, "site")
    ('1 site', '2,000 sites', 'an unreported number of sites')
    """
    if number is None:
        return f"an unreported number of {one}s"
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Write a number of bytes."""
    return f"{number / 1e6:.1f} MB"


def without_paths(value: Any) -> Any:
    """Copy a configuration and cut every absolute path in it to its last part.

    Examples
    --------
    >>> without_paths({"root": "/data/hospital/images", "files": ["~/x/y.csv", "a/b"]})
    {'root': '…/images', 'files': ['…/y.csv', 'a/b']}
    """
    if isinstance(value, dict):
        return {key: without_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        return _PATH.sub(_last_part, value)
    return value


_PATH = re.compile(r"(?<![\w.…/\\])(?:~?/|[A-Za-z]:[\\/])[^\s\"'<>|;,()]*")


def _last_part(match: re.Match[str]) -> str:
    text = match.group()
    if len(text) < 2:  # a slash on its own is no path
        return text
    kind = PureWindowsPath if ":" in text[:2] or "\\" in text else PurePosixPath
    return f"…/{kind(text).name}"
