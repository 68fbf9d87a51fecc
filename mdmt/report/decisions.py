"""Yes-or-no decisions of a model: sensitivity, specificity and what a call is worth, as a table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mdmt.enough import FEWEST_OF_A_CLASS
from mdmt.report.page import Table
from mdmt.results.predictions import Predictions

OPERATING_POINT = "the most probable of several classes, else a probability of 0.5 or more"


def decided(tested: Predictions, output: int) -> NDArray[np.bool_]:
    """Return whether the model says yes to an output, bool (N,): see `OPERATING_POINT`."""
    space, scores = tested.space, tested.predictions
    if space.exclusive and len(space.binary_outputs) > 1:
        return np.asarray(scores.argmax(axis=1) == output)
    return np.asarray(scores[:, output] >= 0.5)


def decision_table(caption: str, arms: Mapping[str, Predictions]) -> Table:
    """A row per arm and output: how many of the patients with and without it are found."""
    rows = []
    for arm, tested in arms.items():
        for output in tested.space.binary_outputs:
            truth, said = tested.truth[:, output], decided(tested, output)
            name = tested.space.prediction_names[output]
            shares = [
                _share(said[truth == 1]),
                _share(~said[truth == 0]),
                _share(truth[said & np.isfinite(truth)] == 1),
                _share(truth[~said & np.isfinite(truth)] == 0),
            ]
            rows.append([f"{name}, {arm}" if len(arms) > 1 else name, *shares])
    return Table(
        caption,
        [
            "label",
            "sensitivity",
            "specificity",
            "predictive value\nof a yes",
            "predictive value\nof a no",
        ],
        rows,
        note=f"A yes is {OPERATING_POINT}. In images. Brackets: Wilson's 95 % interval of"
        f" independent images, from {FEWEST_OF_A_CLASS} images on.",
    )


def _share(right: NDArray[np.bool_]) -> str:
    """Write a share with its counts and interval: ``0.80 (8 of 10) [0.49, 0.94]``."""
    from scipy.stats import binomtest

    total, number = len(right), int(right.sum())
    if not total:
        return "-"
    text = f"{number / total:.2f} ({number} of {total})"
    if total < FEWEST_OF_A_CLASS:
        return text
    ends = binomtest(number, total).proportion_ci(method="wilson")
    return f"{text} [{ends.low:.2f}, {ends.high:.2f}]"
