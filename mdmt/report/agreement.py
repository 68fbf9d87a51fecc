"""Predicted against true numbers: scatter and Bland-Altman plots, in the unit of the task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.report.canvas import BLACK, GUIDE, panel
from mdmt.report.page import Figure, Panel
from mdmt.report.words import count
from mdmt.results.predictions import Predictions

Pairs = dict[str, tuple[NDArray[np.floating], NDArray[np.floating]]]
"""Panel title → (truth, prediction), each (N,)."""


def agreement_figures(
    where: str, arms: Mapping[str, Predictions], colours: Mapping[str, str]
) -> list[Figure]:
    """Draw every output of a task of numbers, predicted against true, and the errors.

    The errors stand over the mean of both numbers (Bland and Altman 1986), with their mean and the
    limits mean ± 1.96 standard deviations. All panels have the same axes.
    """
    first = next(iter(arms.values()))
    unit = f" ({first.space.units})" if first.space.units else ""
    pairs: Pairs = {}
    colour_of = {}
    for arm, tested in arms.items():
        for column, output in enumerate(tested.space.prediction_names):
            truth, predicted = tested.targets[:, column], tested.predictions[:, column]
            rows = np.isfinite(truth) & np.isfinite(predicted)
            if rows.any():
                name = output if len(arms) == 1 else f"{arm}, {output}"
                pairs[name], colour_of[name] = (truth[rows], predicted[rows]), colours[arm]
    if not pairs:
        return []
    scatter, errors = list[Panel](), list[Panel]()
    ends = _ends(np.concatenate([value for pair in pairs.values() for value in pair]))
    differences = {name: predicted - truth for name, (truth, predicted) in pairs.items()}
    high = _ends(np.abs(np.concatenate(list(differences.values()))))[1]
    for name, (truth, predicted) in pairs.items():
        title, error, dots = (
            f"{name}: {count(len(truth), 'image')}",
            differences[name],
            _dots(truth),
        )
        alt = f"{name}: mean absolute error {np.abs(error).mean():.2f}{unit}"
        with panel(scatter, title, f"true{unit}", f"predicted{unit}", alt=alt) as axes:
            axes.plot(ends, ends, **GUIDE)
            axes.plot(truth, predicted, "o", color=colour_of[name], **dots)
            axes.set(xlim=ends, ylim=ends)
        bias, spread = float(error.mean()), 1.96 * float(error.std(ddof=1)) if len(error) > 1 else 0
        limits = f"{bias - spread:.2f} to {bias + spread:.2f}"
        alt = f"{name}: mean error {bias:.2f}{unit}, limits {limits}"
        labels = f"mean of both{unit}", f"predicted − true{unit}"
        with panel(errors, title, *labels, alt=alt) as axes:
            axes.plot((truth + predicted) / 2, error, "o", color=colour_of[name], **dots)
            axes.axhline(0, **GUIDE)
            axes.axhline(bias, color=BLACK, linewidth=1.2)
            for limit in (bias - spread, bias + spread):
                axes.axhline(limit, color=BLACK, linewidth=1, linestyle="--")
            axes.set(xlim=ends, ylim=(-high, high))
    caption = (
        f"{where}: errors over the mean of predicted and true (Bland-Altman). Line: mean error;"
        " dashed: mean ± 1.96 standard deviations."
    )
    return [Figure(f"{where}: predicted against true.", scatter), Figure(caption, errors)]


def _dots(values: NDArray[np.floating]) -> dict[str, Any]:
    return {"alpha": 0.6 if len(values) < 200 else 0.3, "ms": 3.5, "mew": 0}


def _ends(values: NDArray[np.floating]) -> tuple[float, float]:
    """Ends of an axis that holds all values, with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin
