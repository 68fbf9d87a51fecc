from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from mdmt.config.datasets import Synthetic
from mdmt.config.site import SiteConfig
from mdmt.data.brixia import ZONES
from mdmt.data.images import read_radiograph
from mdmt.data.readers import read_manifest
from mdmt.data.synthetic import draw_population
from mdmt.data.synthetic_radiograph import draw_radiograph, write_dicom
from mdmt.errors import DataError

SEVERITY = {"kind": "ordinal", "outputs": list(ZONES), "levels": 4}
PROGNOSIS = {"kind": "classification", "classes": ["MILD", "SEVERE"]}


def site_of(name: str, tmp_path: Path, **dataset: Any) -> SiteConfig:
    dataset = {"kind": "synthetic", "patients": 8, "size": 32} | dataset
    tasks = {"severity": SEVERITY, "prognosis": PROGNOSIS}
    given = {"name": name, "dataset": dataset, "tasks": tasks, "cache_dir": tmp_path / "cache"}
    return SiteConfig.model_validate(given)


def draw(scores: NDArray[np.int64], seed: int, size: int = 64) -> NDArray[np.float32]:
    return draw_radiograph(scores, np.random.default_rng(seed), size=size, noise=0.05)


def zone_means(picture: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of six boxes, in the order of the zones: A, B, C down the left of the picture."""
    n = len(picture)
    rows = [slice(int(n * a), int(n * (a + 0.21))) for a in (0.18, 0.40, 0.61)]
    columns = [slice(int(n * a), int(n * (a + 0.26))) for a in (0.16, 0.58)]
    return np.array([picture[row, column].mean() for column in columns for row in rows])


@pytest.mark.parametrize("zone", range(6))
def test_a_zones_score_brightens_that_zone_on_its_side_of_the_picture(zone: int) -> None:
    means = []
    for score in range(4):
        scores = np.zeros(6, dtype=np.int64)
        scores[zone] = score
        means.append(zone_means(draw(scores, seed=5)))
    # One seed draws the same person: whatever differs is the opacity.
    assert (np.diff(means, axis=0)[:, zone] > 0.01).all()
    assert np.argmax(means[3] - means[0]) == zone


def test_score_zero_draws_no_opacity_and_full_scale_is_kept() -> None:
    picture = draw(np.zeros(6, dtype=np.int64), 1)
    assert picture.dtype == np.float32
    assert picture.shape == (64, 64)
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert picture[32, 32] > zone_means(picture).max()  # the spine is brighter than clear lungs


def test_zone_scores_can_be_read_off_by_a_linear_model() -> None:
    scores = draw_population(Synthetic(kind="synthetic", patients=150, seed=1), "s").scores
    flat = scores.reshape(-1, 6)
    features = np.array([zone_means(draw(s, seed)) for seed, s in enumerate(flat)])
    read = cross_val_predict(Ridge(1e-3), features, flat, cv=5)
    assert np.abs(read - flat).mean() < 0.5
    assert np.abs(flat - np.median(flat, axis=0)).mean() > 0.75  # what a constant would get


@pytest.mark.parametrize("seed", range(3))
def test_the_outcome_follows_the_scores_at_coupling_four(seed: int) -> None:
    people = draw_population(Synthetic(kind="synthetic", patients=200, coupling=4, seed=seed), "s")
    severe = people.outcomes == "SEVERE"
    assert roc_auc_score(severe, people.scores.sum(axis=2).mean(axis=1)) > 0.9
    assert 0.4 < severe.mean() < 0.6


def test_the_outcome_does_not_depend_on_the_scores_at_coupling_zero() -> None:
    people = draw_population(Synthetic(kind="synthetic", patients=4000, coupling=0), "s")
    severe = people.outcomes == "SEVERE"
    correlations = [np.corrcoef(severe, z)[0, 1] for z in people.scores.mean(axis=1).T]
    assert np.abs(correlations).max() < 4 / np.sqrt(4000)
    assert severe.mean() == pytest.approx(0.5, abs=0.001)


def test_images_of_a_patient_share_the_outcome_and_the_split(tmp_path: Path) -> None:
    manifest = read_manifest(site_of("a", tmp_path, images_per_patient=3), 0)
    assert len(manifest) == 24
    for patient in set(manifest.patients.tolist()):
        own = manifest.select(np.flatnonzero(manifest.patients == patient))
        assert len(own) == 3
        assert len(set(own.splits.tolist())) == 1
        assert len(np.unique(own.targets["prognosis"])) == 1


def test_the_manifest_carries_what_was_drawn(tmp_path: Path) -> None:
    site = site_of("a", tmp_path)
    assert isinstance(site.dataset, Synthetic)
    people = draw_population(site.dataset, "a")
    manifest = read_manifest(site, 0)
    np.testing.assert_array_equal(manifest.targets["severity"], people.scores.reshape(-1, 6))
    severe = np.repeat(people.outcomes == "SEVERE", 2)
    np.testing.assert_array_equal(manifest.targets["prognosis"][:, 0], severe)
    assert set(manifest.splits.tolist()) == {"train", "val", "test"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_equal_settings_write_equal_bytes_whatever_the_federations_seed(tmp_path: Path) -> None:
    for n in (0, 1):
        read_manifest(site_of("a", tmp_path, root=tmp_path / f"r{n}"), seed=n)
    assert contents(tmp_path / "r0") == contents(tmp_path / "r1")
    assert len(contents(tmp_path / "r0")) == 16 + 2


@pytest.mark.parametrize(("name", "changes"), [("b", {}), ("a", {"seed": 1})])
def test_another_name_or_seed_gives_other_people(
    tmp_path: Path, name: str, changes: dict[str, Any]
) -> None:
    one = read_manifest(site_of("a", tmp_path), 0)
    other = read_manifest(site_of(name, tmp_path, **changes), 0)
    assert not np.array_equal(one.targets["severity"], other.targets["severity"])
    assert not set(one.images) & set(other.images)
    if name != "a":
        assert not set(one.patients) & set(other.patients)


def test_files_are_drawn_once(tmp_path: Path) -> None:
    times = []
    for _ in range(2):
        manifest = read_manifest(site_of("a", tmp_path), 0)
        times.append([image.stat().st_mtime_ns for image in manifest.images])
    assert times[0] == times[1]


def test_nothing_is_left_behind_when_drawing_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdmt.data.synthetic.write_dicom", full_disk)
    with pytest.raises(OSError, match="No space left"):
        read_manifest(site_of("a", tmp_path, root=tmp_path / "made" / "here"), 0)
    assert list((tmp_path / "made").iterdir()) == []


@pytest.mark.parametrize("foreign", [True, False])
def test_a_root_that_holds_other_data_is_refused_and_left_alone(
    tmp_path: Path, foreign: bool
) -> None:
    root = tmp_path / "root"
    if foreign:
        root.mkdir()
        (root / "labels.csv").write_text("precious")
    else:
        read_manifest(site_of("a", tmp_path, root=root), 0)
    before = contents(root)
    with pytest.raises(DataError, match=f"{root}: contains data of another dataset"):
        read_manifest(site_of("a", tmp_path, root=root, coupling=0), 0)
    assert contents(root) == before


def test_all_kinds_of_stored_pixels_occur_in_valid_dicom(tmp_path: Path) -> None:
    manifest = read_manifest(site_of("a", tmp_path), 0)
    kinds = set()
    for image in manifest.images:
        dataset = pydicom.dcmread(image)  # without force: preamble and file meta are there
        kinds.add((dataset.PhotometricInterpretation, dataset.BitsStored))
        assert dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
        assert dataset.pixel_array.max() < 2**dataset.BitsStored
    assert kinds == {(p, b) for p in ("MONOCHROME1", "MONOCHROME2") for b in (12, 16)}
    with (manifest.images[0].parents[1] / "labels.csv").open() as file:
        assert next(csv.reader(file)) == ["image", "patient", "split", *ZONES, "prognosis"]


def test_monochrome1_and_2_and_both_depths_read_as_the_drawn_picture(tmp_path: Path) -> None:
    picture = draw(np.array([3, 0, 1, 0, 2, 0]), 4)
    for bits in (12, 16):
        read = []
        for photometric in ("MONOCHROME1", "MONOCHROME2"):
            file = tmp_path / f"{photometric}-{bits}.dcm"
            write_dicom(file, picture, patient="p", photometric=photometric, bits=bits)  # type: ignore[arg-type]
            read.append(read_radiograph(file))
        np.testing.assert_array_equal(read[0], read[1])
        np.testing.assert_allclose(read[0] / (2**bits - 1), picture, atol=0.51 / (2**bits - 1))
