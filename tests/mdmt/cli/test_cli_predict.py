"""Predictions of a release."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_builders import errors, run_cli
from dicom_builders import header, radiograph
from PIL import Image
from pydicom.uid import (
    BasicTextSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
)

from mdmt.appearance import fences
from mdmt.config import FederationConfig, load_federation
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.evaluation import predict_outputs
from mdmt.files import read_json, write_json
from mdmt.prediction import label_of
from mdmt.releases import open_release
from mdmt.tasks import Classification, Multilabel


@pytest.fixture
def clinic(finished_run: Path) -> tuple[FederationConfig, Cohort]:
    config = load_federation(finished_run / "federation.yaml")
    return config, open_cohort(config.sites["clinic"], config)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_predictions_are_those_of_the_evaluation(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    config, cohort = clinic
    images = cohort.manifest.images[:5]
    result = run_cli("predict", finished_run, *images, "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    rows = read_csv(tmp_path / "p.csv")
    assert [row["image"] for row in rows] == [str(image) for image in images]
    ((site, model),) = open_release(finished_run / "release").models("severity")
    assert site == "clinic"
    outputs = predict_outputs(
        model, cohort, np.arange(5), config, ["severity"], torch.device("cpu")
    )
    expected = config.space("severity").decode(outputs["severity"].numpy())
    found = [[float(row[f"severity.{zone}"]) for zone in "ABCDEF"] for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    sums = [float(row["severity.sum"]) for row in rows]
    np.testing.assert_allclose(sums, expected.sum(axis=1), atol=1e-4)
    for site in ("hospital", "infirmary"):  # two heads of one task
        for row in rows:
            mild, severe = (float(row[f"prognosis@{site}.{c}"]) for c in ("MILD", "SEVERE"))
            assert mild + severe == pytest.approx(1, abs=1e-5)


def test_folders_are_read_whole(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    folder = clinic[1].manifest.images[0].parent
    run_cli("predict", finished_run / "release", folder, "--out", tmp_path / "p.csv")
    assert len(read_csv(tmp_path / "p.csv")) == len(clinic[1].manifest)


def test_a_cd_of_an_archive_gives_its_images(finished_run: Path, tmp_path: Path) -> None:
    """Names say nothing, and a DICOMDIR, a report and a text are passed over, by name."""
    cd = tmp_path / "cd"
    (cd / "PAT0" / "ST0").mkdir(parents=True)
    names = ("PAT0/ST0/IM000001", "PAT0/1.2.840.113619.2", "scan.ima")
    for name in names:
        radiograph().save_as(cd / name, enforce_file_format=True)
    header(MediaStorageDirectoryStorage).save_as(cd / "DICOMDIR", enforce_file_format=True)
    for sop_class in (BasicTextSRStorage, GrayscaleSoftcopyPresentationStateStorage):
        header(sop_class).save_as(cd / "PAT0" / sop_class, enforce_file_format=True)
    (cd / "autorun.inf").write_text("[autorun]")
    result = run_cli("predict", finished_run, cd, "--out", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    assert {row["image"] for row in read_csv(tmp_path / "p.csv")} == {str(cd / n) for n in names}
    assert result.stdout == f"{tmp_path / 'p.csv'}: 3 images\n"
    passed = [line for line in result.stderr.splitlines() if line.startswith("passed over")]
    assert len(passed) == 4
    for name in ("DICOMDIR", "Basic Text SR", "Presentation State", "autorun.inf"):
        assert name in result.stderr


def test_heads_of_a_site(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    """A release without heads and a site's saved state give what the release with heads gives."""
    image = clinic[1].manifest.images[0]
    release = shutil.copytree(finished_run / "release", tmp_path / "release")
    shutil.rmtree(release / "sites")
    result = run_cli("predict", release, image, "--out", tmp_path / "none.csv")
    assert result.exit_code == 2
    assert "no head for any task" in errors(result)[0]
    released = open_release(release).rounds["severity"]
    states = sorted(finished_run.glob("sites/clinic/**/federated/round-*.safetensors"))
    for state in states:
        out = tmp_path / f"{state.stem}.csv"
        result = run_cli("predict", release, image, "--heads", state, "--out", out)
        if state.stem != f"round-{released:05d}":
            assert result.exit_code == 2
            assert "not the heads of a released round" in errors(result)[0]
            continue
        run_cli("predict", finished_run, image, "--out", tmp_path / "all.csv")
        (own,), (all_sites,) = read_csv(out), read_csv(tmp_path / "all.csv")
        assert own == {key: all_sites[key] for key in own}
        assert "severity.A" in own
    assert f"round-{released:05d}" in [state.stem for state in states]


def test_heads_of_another_run_are_refused(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    release = shutil.copytree(finished_run / "release", tmp_path / "release")
    facts = read_json(release / "release.json")
    write_json(release / "release.json", facts | {"run": "another"})
    state = next(finished_run.glob("sites/clinic/**/federated/round-*.safetensors"))
    image = clinic[1].manifest.images[0]
    result = run_cli("predict", release, image, "--heads", state, "--out", tmp_path / "p.csv")
    assert result.exit_code == 2
    assert "saved for run" in errors(result)[0]


def test_unusable_image_stops_or_is_counted(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    bad, out = tmp_path / "bad.png", tmp_path / "p.csv"
    bad.write_text("no image")
    given = (finished_run, bad, clinic[1].manifest.images[0], "--out", out)
    result = run_cli("predict", *given)
    assert result.exit_code == 2
    assert "bad.png" in errors(result)[0]
    assert not out.exists()
    result = run_cli("predict", *given, "--on-bad-image", "skip")
    assert result.stdout == f"{out}: 1 images, 1 skipped\n"
    assert "skipped" in result.stderr
    assert len(read_csv(out)) == 1
    nothing = run_cli(
        "predict", finished_run, bad, "--on-bad-image", "skip", "--out", bad.parent / "q"
    )
    assert nothing.exit_code == 2
    assert not (tmp_path / "q").exists()


def test_refusals(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.csv"
    (tmp_path / "empty").mkdir()
    cases = [
        ((finished_run, tmp_path / "none.png", "--out", out), "none.png"),
        ((finished_run, tmp_path / "empty", "--out", out), "no DICOM, PNG, JPEG or TIFF"),
        ((tmp_path / "empty", tmp_path / "none.png", "--out", out), "not a release"),
        ((finished_run, tmp_path / "none.png", "--out", finished_run), "exists already"),
    ]
    release = shutil.copytree(finished_run / "release", tmp_path / "release")
    facts = read_json(release / "release.json")
    facts["recipe"]["preprocessing"]["lung_box"] = True
    write_json(release / "release.json", facts)
    cases.append(((release, tmp_path / "none.png", "--out", out), "lung_box"))
    for threshold, says in (
        ("prognosi=0.3", "did you mean prognosis?"),
        ("severity=0.3", "severity has no probability of one label"),
        ("prognosis=30", "expected a number between 0 and 1"),
    ):
        named = ("--threshold", threshold, "--out", out)
        cases.append(((finished_run, tmp_path / "none.png", *named), says))
    for arguments, says in cases:
        result = run_cli("predict", *arguments)
        assert result.exit_code == 2
        (line,) = errors(result)
        assert says in line
        assert not out.exists()


def test_labels_follow_the_threshold(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    images = clinic[1].manifest.images[:3]
    for threshold in ("0.5", "0.001", "0.999"):
        out = tmp_path / f"{threshold}.csv"
        given = ("--threshold", f"prognosis={threshold}", "--device", "cpu", "--out", out)
        result = run_cli("predict", finished_run, *images, *given)
        assert result.exit_code == 0, result.output
        for row in read_csv(out):
            severe = float(row["prognosis@hospital.SEVERE"]) >= float(threshold)
            assert row["prognosis@hospital.label"] == ("MILD", "SEVERE")[severe]
            assert row["prognosis@hospital.threshold"] == threshold
            assert "severity.label" not in row


def test_labels_of_three_classes_and_of_findings() -> None:
    grades = Classification(classes=("a", "b", "c"))
    assert label_of(grades, np.array([0.2, 0.3, 0.5]), 0.9) == "c"
    findings = Multilabel(labels=("x", "y", "z"))
    assert label_of(findings, np.array([0.4, 0.1, 0.3]), 0.3) == "x|z"
    assert label_of(findings, np.array([0.1, 0.1, 0.1]), 0.3) == ""


def test_a_lung_box_needs_the_masks_of_the_images(finished_run: Path, tmp_path: Path) -> None:
    release = shutil.copytree(finished_run / "release", tmp_path / "release")
    facts = read_json(release / "release.json")
    facts["recipe"]["preprocessing"]["lung_box"] = True
    write_json(release / "release.json", facts)
    (tmp_path / "masks").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80), np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[10:50, 20:60] = 255
    for name in ("a", "b"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.tif")
    given = ("--masks", tmp_path / "masks", "--out")
    result = run_cli("predict", release, tmp_path / "a.png", *given, tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    result = run_cli("predict", release, tmp_path / "b.png", *given, tmp_path / "q.csv")
    assert result.exit_code == 2
    assert "b.png: no mask with this name in" in errors(result)[0]


def test_an_image_unlike_those_of_the_sites_is_noticed(
    finished_run: Path, tmp_path: Path, clinic: tuple[FederationConfig, Cohort]
) -> None:
    like = clinic[1].manifest.images[0]
    sites = read_json(finished_run / "release" / "appearance.json")["sites"]
    assert set(sites) == {"clinic"}  # the others have too few images
    photo = np.full((64, 64), 20, np.uint8)
    photo[:, :20] = 250
    Image.fromarray(photo).save(tmp_path / "photo.png")
    out = tmp_path / "p.csv"
    result = run_cli("predict", finished_run, like, tmp_path / "photo.png", "--out", out)
    assert result.exit_code == 0, result.output
    usual, unlike = read_csv(out)
    assert usual["notice"] == ""
    assert "does not look like the images of the sites: " in unlike["notice"]
    assert "symmetry" in unlike["notice"]
    assert f"unusual: {tmp_path / 'photo.png'}: does not look" in result.stderr
    assert fences(clinic[1].pixels[:10]) is None  # too few images
