"""Labels that mean nothing: those of a task, permuted among the patients of a site."""

from dataclasses import replace

import numpy as np

from mdmt.seeds import derive_seed
from simulation.study.folds import Fold, Manifests


def shuffle_labels(fold: Fold, manifests: Manifests, task: str, seed: int) -> Fold:
    """Permute the labels of `task` among the patients that train, and among those that validate.

    Image j of a patient gets the label of image j of another patient of the same site and split
    (counted again from the first if there are fewer). So classes, sites and the number of images
    stay, labels of tested patients stay, and an image says nothing about its label.
    """
    shuffled = {}
    for name, manifest in manifests.items():
        if task not in manifest.targets:
            continue
        labelled = np.isfinite(manifest.targets[task]).any(axis=1)
        origin = np.arange(len(manifest))
        for split in ("train", "val"):
            rows = labelled & (fold.splits[name] == split)
            patients = np.unique(manifest.patients[rows])
            generator = np.random.default_rng(derive_seed(seed, "shuffle", name, fold.name, split))
            for patient, other in zip(patients, generator.permutation(patients), strict=True):
                own, theirs = (
                    np.flatnonzero(rows & (manifest.patients == one)) for one in (patient, other)
                )
                origin[own] = np.resize(theirs, len(own))
        shuffled[name] = origin
    return replace(fold, shuffled=shuffled)
