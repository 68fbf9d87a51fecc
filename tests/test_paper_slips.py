"""What went wrong in the published code of the paper, and does not here.

The sixth slip, arms that differ in more than what is compared, is tested where arms are run, in
tests/simulation/study/test_study.py:
test_all_arms_start_from_the_same_weights_with_the_same_recipe.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published_builders import BRIXIA_ROWS, brixia_site, write_brixia
from pydantic import TypeAdapter, ValidationError

from mdmt import central
from mdmt.config import (
    AugmentationConfig,
    FederationConfig,
    ModelConfig,
    PreprocessingConfig,
    SiteConfig,
)
from mdmt.data.augmentation import Augmentation
from mdmt.data.batches import load_images, normalise
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.data.readers import read_manifest
from mdmt.evaluation import evaluate
from mdmt.models import build_model
from mdmt.selection import Selection
from mdmt.tasks import Classification, Ordinal, Regression
from simulation.study.data import make_folds
from simulation.study.kinds import FoldsConfig

LUNGS = {"kind": "ordinal", "outputs": ["right", "left"], "levels": 4}


def brixia(root: Path, **dataset: Any) -> tuple[dict[str, SiteConfig], dict[str, Manifest]]:
    task = {"task": LUNGS, "structure": "lungs"} if dataset.get("structure") else {}
    site = SiteConfig.model_validate(brixia_site(root, **task | dataset))
    return {"bx": site}, {"bx": read_manifest(site, 0)}


def folds_of(**keys: Any) -> FoldsConfig:
    config: FoldsConfig = TypeAdapter(FoldsConfig).validate_python(keys)
    return config


def test_slip_1_channels_repeat_the_radiograph_and_scramble_no_pixel(make_config: Any) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    config = make_config(model={"backbone": "test_resnet", "in_channels": 3, "image_size": 32})
    grey = PreprocessingConfig(mean=(0.0,), std=(1.0,))
    config = config.model_copy(update={"preprocessing": grey})
    cohort = Cohort(Manifest((), (), np.array([]), np.array([]), {}, ()), pixels)
    images = load_images(cohort, np.array([0]), torch.device("cpu"))
    for channel in normalise(images, config)[0]:
        np.testing.assert_allclose(channel.numpy() * 255, pixels[0], rtol=1e-6)


def test_slip_2_an_unknown_option_is_an_error_and_the_normaliser_runs(make_config: Any) -> None:
    with pytest.raises(ValidationError, match="expected none, timm, offline"):
        ModelConfig(backbone="resnet18", weights="Imagenet")
    with pytest.raises(ValidationError, match="norm"):
        PreprocessingConfig.model_validate({"norm": "Imagenet"})
    config: FederationConfig = make_config(preprocessing={"mean": [0.5], "std": [0.25]})
    assert normalise(torch.tensor([[[[0.5, 1.0]]]]), config).flatten().tolist() == [0.0, 2.0]


def test_slip_3_a_flipped_image_has_its_zones_swapped() -> None:
    mirror = {"A": "D", "B": "E", "C": "F"}
    zones = Ordinal(outputs=tuple("ABCDEF"), levels=4, mirror=mirror)
    still = AugmentationConfig(p=1, flip=True, shift=0, zoom=0, rotation=0)
    images = torch.arange(16.0).view(1, 1, 4, 4) / 16
    targets = {"severity": torch.tensor([[0.0, 1.0, 2.0, 3.0, 3.0, 1.0]])}
    flipped, swapped = Augmentation(still, {"severity": zones})(
        images, targets, torch.Generator().manual_seed(0)
    )
    assert torch.equal(flipped, images.flip(-1))
    assert swapped["severity"].tolist() == [[3, 3, 1, 0, 1, 2]]


def test_slip_4_the_left_lung_is_labelled_by_its_own_zones(tmp_path: Path) -> None:
    root = write_brixia(tmp_path / "bx")
    _, manifests = brixia(root, structure="lungs")
    for row, levels in zip(BRIXIA_ROWS, manifests["bx"].targets["severity"], strict=True):
        digits = [int(digit) for digit in row.split(";")[2]]
        right, left = sum(digits[:3]), sum(digits[3:])
        assert levels.tolist() == [np.digitize(lung, [2, 5, 8]) for lung in (right, left)]


def test_slip_5_samples_of_another_task_do_not_dilute_the_mean() -> None:
    outcome, zones = (
        Classification(classes=("MILD", "SEVERE")),
        Regression(outputs=("A",), range=(0, 3)),
    )
    nan = float("nan")
    logits, labels = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0], [1.0]])
    alone = outcome.loss(logits, labels)[0]
    mixed = outcome.loss(
        torch.cat([logits, torch.ones(6, 2)]), torch.cat([labels, torch.full((6, 1), nan)])
    )[0]
    # -log softmax: log(1 + e^-1) and log(1 + e^2), their mean.
    assert alone.item() == pytest.approx((0.313262 + 2.126928) / 2, abs=1e-5)
    assert mixed.item() == alone.item()
    score = zones.loss(torch.zeros(4, 1), torch.tensor([[3.0], [nan], [nan], [nan]]))[0]
    assert score.item() == pytest.approx(1.0)  # one label, half a range from the middle


def labelled_cohort(outcomes: int, scores: int) -> Cohort:
    """In train and in val: images with an outcome, then images with a score of 3 or 1.5 in turn."""
    n = outcomes + scores
    nan = np.full((n, 1), np.nan, np.float32)
    prognosis, severity = nan.copy(), nan
    prognosis[:outcomes, 0] = np.arange(outcomes) % 2
    severity[outcomes:, 0] = np.where(np.arange(scores) % 2, 1.5, 3)
    manifest = Manifest(
        images=(Path("x.png"),) * 2 * n,
        rows=("x",) * 2 * n,
        patients=np.arange(2 * n).astype(str),
        splits=np.repeat(["train", "val"], n),
        targets={"prognosis": np.tile(prognosis, (2, 1)), "severity": np.tile(severity, (2, 1))},
        masks=(None,) * 2 * n,
    )
    return Cohort(manifest, np.random.default_rng(n).integers(0, 255, (2 * n, 32, 32), np.uint8))


@pytest.mark.parametrize("arm", ["federated", "pooled"])
@pytest.mark.parametrize(("outcomes", "scores"), [(2, 0), (2, 2), (2, 20), (20, 2)])
def test_slip_5_the_learning_rate_follows_a_loss_that_no_mix_of_samples_dilutes(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, arm: str, outcomes: int, scores: int
) -> None:
    """All outputs are 0: ln 2 for an outcome; 1 for a score of 3, 0 for 1.5, so 1/2 on average."""
    config: FederationConfig = make_config(
        tasks={
            "prognosis": {"kind": "classification", "classes": ["MILD", "SEVERE"], "weight": 1},
            "severity": {"kind": "regression", "outputs": ["A"], "range": [0, 3], "weight": 3},
        },
        training={
            "rounds": 1,
            "local_steps": 1,
            "optimizer": {"name": "sgd", "lr": 1e-9},  # the outputs stay 0
            "scheduler": "plateau",
        },
    )
    cohorts = {"clinic": labelled_cohort(0, 2), "hospital": labelled_cohort(outcomes, scores)}
    selection, tasks, cpu = Selection(config), list(config.tasks), torch.device("cpu")
    model = build_model(config, tasks, weights=False)
    for parameter in model.heads.parameters():
        torch.nn.init.zeros_(parameter)
    if arm == "federated":
        found = {s: evaluate(model, c, "val", config, tasks, cpu) for s, c in cohorts.items()}
        everybody = {task: list(cohorts) for task in tasks}
        selection.book(1, found, everybody)  # as the server does
    else:
        monkeypatch.setattr(central, "build_model", lambda *_, **__: model)
        monkeypatch.setattr(central, "Selection", lambda _: selection)
        central.train_centrally(config, cohorts, tasks, who="pooled", rounds=1, device=cpu)
    assert selection.lowest_loss == pytest.approx(1 * math.log(2) + 3 * 0.5, abs=1e-5)


def test_slip_7_auroc_ranks_probabilities_and_not_hard_labels() -> None:
    outcome = Classification(classes=("MILD", "SEVERE"))
    severe = np.array([0.1, 0.2, 0.3, 0.4])  # every one would be called MILD
    predictions = np.stack([1 - severe, severe], axis=1)
    targets = np.array([[0.0], [0.0], [1.0], [1.0]])
    assert outcome.metrics(predictions, targets)["auroc"] == 1.0


def test_slip_8_merged_vendors_leave_every_image_in_exactly_one_test_fold(tmp_path: Path) -> None:
    sites, manifests = brixia(write_brixia(tmp_path / "bx"))
    assert len({row.split(";")[1] for row in BRIXIA_ROWS}) == 9
    folds = make_folds(folds_of(kind="leave_centre_out", sites=["bx"]), sites, manifests, 0)
    assert [fold.name for fold in folds] == ["AGFA", "CARESTREAM", "SIEMENS"]
    tested = np.sum([fold.splits["bx"] == "test" for fold in folds], axis=0)
    assert tested.tolist() == [1] * len(BRIXIA_ROWS)


@pytest.mark.parametrize("seed", range(5))
def test_slip_9_images_of_a_patient_stay_together(tmp_path: Path, seed: int) -> None:
    sites, manifests = brixia(write_brixia(tmp_path / "bx"))
    assert manifests["bx"].patients[-2:].tolist() == ["s10", "s10"]
    for fold in make_folds(folds_of(kind="k_fold", k=5), sites, manifests, seed):
        assert fold.splits["bx"][-1] == fold.splits["bx"][-2]
