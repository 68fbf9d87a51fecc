"""Labels from the numbers of a report: no array of the update is needed."""

from __future__ import annotations

import numpy as np
import torch

from mdmt.config import FederationConfig
from mdmt.models import build_model

from .hospital import Hospital, first_image, initial_arrays
from .recipes import TASK, federation, one_image

MESSAGES = 8


def recipe_of_one_image() -> FederationConfig:
    """One image per message."""
    return federation(training=one_image(lr=1e-9))


def one_label_per_message(victim: Hospital) -> float:
    """Return the fraction of right labels, one from each reported loss.

    A backbone of zeros gives the same features for every image, so the loss is that of the head's
    bias, which follows from the recipe, and tells the label. A withheld loss is guessed.
    """
    sent = {k: np.zeros_like(v) for k, v in initial_arrays(victim.asked).items()}
    by_label = _losses(victim.asked)
    right = []
    for number in range(1, MESSAGES + 1):
        loss = victim.train(sent, run=number, number=number).report["losses"].get(TASK)
        label = 0 if loss is None else int(np.abs(by_label - loss).argmin())
        right.append(label == victim.labels[first_image(victim, number)])
    return float(np.mean(right))


def smallest_class(victim: Hospital) -> float:
    """Return 1 if the site card tells how many patients have the rarest label."""
    (histogram,) = victim.card()["histogram"][TASK].values()
    smallest = np.bincount(victim.labels, minlength=2).min()
    return float(histogram is not None and min(histogram.values()) == smallest)


def label_of_a_tiny_split(victim: Hospital) -> float:
    """Return 1 if the validation metrics tell the label of the only validation patient."""
    sent = {k: np.zeros_like(v) for k, v in initial_arrays(victim.asked).items()}
    loss = victim.train(sent, number=2).report["validation"].get(f"{TASK}/loss")
    if loss is None:
        return 0.0
    cohort = victim.truth
    (row,) = cohort.manifest.indices("val")
    distance = np.abs(_losses(victim.asked) - loss)
    if distance.min() > 1e-3:  # not the loss of one image
        return 0.0
    told = int(distance.argmin())
    return float(told == int(cohort.manifest.targets[TASK][row, 0]))


def recipe_of_a_transformer() -> FederationConfig:
    """The ordinary recipe. The last layer of this backbone can give any features."""
    return federation(model={"backbone": "test_vit", "image_size": 32})


def count_of_a_label(victim: Hospital) -> float:
    """Return 1 if two crafted rounds tell how many patients have a label.

    All images get the features z in one round and -z in the next, at a rate of almost 0. For large
    z one loss is f·m and the other (1-f)·m, with f the fraction of a label and m an unknown number.
    """
    first = victim.train(initial_arrays(victim.asked)).arrays
    head = build_model(victim.asked, (TASK,), weights=False).heads[TASK].state_dict()
    low, high = next(v for k, v in head.items() if k.endswith("weight")).double().numpy()
    features = 1e3 * np.sign(high - low)  # the label 1 for all
    losses = []
    for number, sign in ((2, 1), (3, -1)):
        sent = first | {
            "backbone.norm.weight": np.zeros_like(first["backbone.norm.weight"]),
            "backbone.norm.bias": (sign * features).astype(np.float32),
        }
        report = victim.train(sent, number=number, rate=1e-9).report
        losses.append(report["losses"].get(TASK))
    if None in losses:
        return 0.0
    zeros = losses[0] / sum(losses) * len(victim.labels)
    return float(abs(zeros - (victim.labels == 0).sum()) < 0.5)


def _losses(config: FederationConfig) -> np.ndarray:
    """The loss of each label if the backbone is zero."""
    head = build_model(config, (TASK,), weights=False).heads[TASK]
    (bias,) = (v for k, v in head.state_dict().items() if k.endswith("bias"))
    return -torch.log_softmax(bias.double(), 0).numpy()
