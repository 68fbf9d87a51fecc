"""Membership inference on the release: was this patient's image in the training data?

The model has learnt its few training images by heart, so their loss is smaller than that of other
images (Yeom et al., CSF 2018). The attacker has the release and the image; a loss below a threshold
means yes.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn.functional import cross_entropy

from mdmt.config import FederationConfig
from mdmt.data.batches import load_images, normalise
from mdmt.models import build_model, set_arrays

from .hospital import Hospital, initial_arrays
from .recipes import TASK, federation


def recipe() -> FederationConfig:
    """A recipe that trains far too long. The head is shared, so the release has it."""
    return federation(
        model={"backbone": "test_efficientnet_ln", "image_size": 32},
        training={
            "rounds": 1,
            "local_epochs": 20,
            "batch_size": 24,
            "optimizer": {"name": "adam", "lr": 3e-3},
        },
        aggregation={"weighting": "uniform", "norm_layers": "frozen", "heads": "shared"},
    )


def attack(victim: Hospital) -> float:
    """Return the AUC of the loss as a test of membership: training against test images."""
    arrays = victim.train(initial_arrays(victim.asked)).arrays
    model = build_model(victim.asked, (TASK,), weights=False).eval()
    set_arrays(model, arrays)
    cohort = victim.truth
    members, others = (cohort.manifest.indices(split) for split in ("train", "test"))
    rows = np.concatenate([members, others])
    with torch.inference_mode():
        images = normalise(load_images(cohort, rows, torch.device("cpu")), victim.asked)
        labels = torch.from_numpy(cohort.manifest.targets[TASK][rows, 0]).long()
        loss = cross_entropy(model(images)[TASK], labels, reduction="none").numpy()
    return float(roc_auc_score(np.arange(len(rows)) < len(members), -loss))
