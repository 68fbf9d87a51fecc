"""Folds: whole patients over all sites, every image tested, no class lost; or a one-line error."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import PROGNOSIS, SEVERITY
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from published_builders import aiforcovid_site, brixia_site, write_split_files
from pydantic import TypeAdapter

from mdmt.config import PreprocessingConfig, SiteConfig
from mdmt.data.cache import open_pixels
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.data.readers import read_manifest
from mdmt.errors import DataError
from simulation.study.data import check_folds, check_pictures, make_folds
from simulation.study.folds import Fold, k_folds, leave_centres_out, train_on_part
from simulation.study.kinds import FoldsConfig
from simulation.study.shuffle import shuffle_labels


def site_of(name: str, task: str = "prognosis", root: str = "data") -> SiteConfig:
    spaces = {"prognosis": PROGNOSIS, "severity": SEVERITY}
    return SiteConfig.model_validate(
        {
            "name": name,
            "dataset": {"kind": "table", "root": root},
            "tasks": {task: spaces[task]},
        }
    )


def manifest_of(
    patients: Sequence[str], outcomes: Sequence[float], centres: Sequence[str] | None = None
) -> Manifest:
    n = len(patients)
    return Manifest(
        images=tuple(Path(f"{i}.png") for i in range(n)),
        rows=tuple(f"labels.csv:{i + 2}" for i in range(n)),
        patients=np.array(patients),
        splits=np.full(n, "train"),
        targets={"prognosis": np.array(outcomes, np.float32).reshape(n, 1)},
        masks=(None,) * n,
        columns={} if centres is None else {"centre": np.array(centres)},
    )


def many(n: int = 60, first: int = 0, centres: str = "AB") -> Manifest:
    """n patients of one image each; both outcomes in every centre."""
    return manifest_of(
        [f"p{first + i}" for i in range(n)],
        [i // len(centres) % 2 for i in range(n)],
        [centres[i % len(centres)] for i in range(n)],
    )


def config_of(**keys: Any) -> FoldsConfig:
    config: FoldsConfig = TypeAdapter(FoldsConfig).validate_python(keys)
    return config


def assert_patients_are_whole(fold: Fold, manifests: dict[str, Manifest]) -> None:
    sides: dict[str, set[str]] = {}
    for name, manifest in manifests.items():
        for patient, split in zip(manifest.patients, fold.splits[name], strict=True):
            if split != "unused":
                sides.setdefault(patient, set()).add(split)
    assert all(len(side) == 1 for side in sides.values())


PATIENTS = st.lists(
    st.tuples(st.integers(0, 25), st.integers(0, 1), st.sampled_from("ABC")),
    min_size=20,
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(first=PATIENTS, second=PATIENTS, k=st.integers(3, 6), seed=st.integers(0, 5))
def test_every_image_is_tested_once_and_no_patient_straddles_sites(
    first: list[Any], second: list[Any], k: int, seed: int
) -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    everywhere = [(100 + i, i % 2, "A") for i in range(12)]  # never fewer patients than folds
    manifests = {
        name: manifest_of(
            [f"p{p}" for p, _, _ in rows], [y for _, y, _ in rows], [c for *_, c in rows]
        )
        for name, rows in (("a", first + everywhere), ("b", second))
    }
    folds = k_folds(sites, manifests, k, seed)
    assert [fold.name for fold in folds] == [str(i) for i in range(k)]
    for name in manifests:
        assert (np.sum([fold.splits[name] == "test" for fold in folds], axis=0) == 1).all()
    for fold in folds:
        assert_patients_are_whole(fold, manifests)
        pooled = np.concatenate(list(fold.splits.values()))
        assert {"train", "val", "test"} <= set(pooled.tolist())


def test_five_folds_are_three_one_one_and_keep_classes_and_centres_in_proportion() -> None:
    manifest = many(100)
    for fold in k_folds({"a": site_of("a")}, {"a": manifest}, 5, 0):
        assert Counter(fold.splits["a"].tolist()) == {"train": 60, "val": 20, "test": 20}
        tested = manifest.select(fold.apply("a", manifest).indices("test"))
        strata = zip(tested.targets["prognosis"][:, 0], tested.columns["centre"], strict=True)
        assert set(Counter(strata).values()) == {5}


def test_severity_without_classes_is_balanced_by_quarters() -> None:
    scores = np.repeat(np.arange(20, dtype=np.float32), 3)[:, None] * np.ones(6, np.float32) / 7
    manifest = replace(many(60), targets={"severity": scores}, columns={})
    site = site_of("a", "severity")
    for fold in k_folds({"a": site}, {"a": manifest}, 5, 0):
        tested = scores[fold.splits["a"] == "test"].mean(axis=1)
        assert tested.mean() == pytest.approx(scores.mean(), abs=0.15)


def test_folds_follow_the_seed_and_not_the_order_of_rows_or_sites() -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    manifests = {"a": many(), "b": many(first=50)}
    folds = k_folds(sites, manifests, 5, 0)
    order = np.random.default_rng(0).permutation(60)
    turned = {"b": manifests["b"], "a": manifests["a"].select(order)}
    for fold, again in zip(folds, k_folds(sites, turned, 5, 0), strict=True):
        assert fold.splits["a"][order].tolist() == again.splits["a"].tolist()
        assert fold.splits["b"].tolist() == again.splits["b"].tolist()
    others = k_folds(sites, manifests, 5, 1)
    assert any((f.splits["a"] != g.splits["a"]).any() for f, g in zip(folds, others, strict=True))


def test_hash_folds_follow_the_id_alone() -> None:
    """Neither a seed nor the other sites, labels or patients move a patient."""
    sites = {"a": site_of("a"), "b": site_of("b")}
    one, other = many(60), many(60, first=30)
    config = config_of(kind="hash", k=3, val_fraction=0.25)
    folds = make_folds(config, sites, {"a": one, "b": other}, 0)
    for fold in folds:
        assert_patients_are_whole(fold, {"a": one, "b": other})
    again = make_folds(config, {"b": site_of("b")}, {"b": other}, 7)
    assert [f.splits["b"].tolist() for f in again] == [f.splits["b"].tolist() for f in folds]
    digest = hashlib.sha256(b"p0").digest()
    tested = [fold.splits["a"][0] == "test" for fold in folds]
    assert tested.index(True) == int.from_bytes(digest[:8]) % 3
    shares = [np.mean(fold.splits["a"] == "val") for fold in folds]
    assert 0.05 < min(shares) < max(shares) < 0.3


def test_a_part_of_the_patients_is_nested_and_keeps_every_class() -> None:
    sites = {"a": site_of("a")}
    manifests = {"a": many(80)}
    (fold, *_) = make_folds(config_of(kind="k_fold", k=4), sites, manifests, 0)
    kept = {}
    for fraction in (0.01, 0.25, 0.5, 1.0):
        part = train_on_part(fold, sites, manifests, fraction).splits["a"]
        for split in ("train", "val"):
            kept[fraction, split] = set(np.flatnonzero(part == split))
            labels = manifests["a"].targets["prognosis"][part == split]
            assert set(labels[:, 0]) == {0, 1}
        assert (part == "test").tolist() == (fold.splits["a"] == "test").tolist()
    for split, whole in (("train", 40), ("val", 20)):
        assert kept[0.01, split] <= kept[0.25, split] < kept[0.5, split] < kept[1.0, split]
        assert [len(kept[f, split]) for f in (0.5, 1.0)] == [whole / 2, whole]
        assert 2 <= len(kept[0.01, split]) < whole / 4


def test_shuffled_labels_keep_their_site_split_and_class_and_follow_the_seed() -> None:
    """Patient i has two images with label i % 2; only labels of patients move, both at once."""
    patients = [f"p{i // 2}" for i in range(120)]
    manifest = manifest_of(patients, [i // 2 % 2 for i in range(120)])
    (fold, *_) = make_folds(config_of(kind="k_fold"), {"a": site_of("a")}, {"a": manifest}, 0)
    shuffled = shuffle_labels(fold, {"a": manifest}, "prognosis", 0)
    origin, before = shuffled.shuffled["a"], manifest.targets["prognosis"][:, 0]
    after = before[origin]
    for split in ("train", "val"):
        rows = fold.splits["a"] == split
        assert sorted(after[rows]) == sorted(before[rows])
        assert np.mean(after[rows] == before[rows]) < 0.8
    assert (after[0::2] == after[1::2]).all()
    tested = fold.splits["a"] == "test"
    assert (after[tested] == before[tested]).all()
    assert shuffle_labels(fold, {"a": manifest}, "severity", 0).shuffled == {}
    again, other = (shuffle_labels(fold, {"a": manifest}, "prognosis", seed) for seed in (0, 1))
    assert again.shuffled["a"].tolist() == origin.tolist() != other.shuffled["a"].tolist()


def test_leaving_centres_out_tests_each_centre_whole() -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    manifests = {"a": many(60, centres="ABC"), "b": many(40, first=100)}
    folds = leave_centres_out(sites, manifests, ["a"], 0)
    assert [fold.name for fold in folds] == ["A", "B", "C"]
    for fold in folds:
        tested = fold.splits["a"] == "test"
        assert (tested == (manifests["a"].columns["centre"] == fold.name)).all()
        assert {"train", "val"} < set(fold.splits["a"].tolist())
        # The other site keeps one test split over the folds: a fifth of its patients.
        assert (fold.splits["b"] == "test").sum() == 8
        assert (fold.splits["b"] == folds[0].splits["b"]).all()


def test_leaving_out_pairs_of_centres_gives_their_product() -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    manifests = {"a": many(72, centres="ABCDEF"), "b": many(60, first=100, centres="XYZ")}
    config = config_of(kind="leave_centre_out", sites=["a", "b"])
    folds = make_folds(config, sites, manifests, 0)
    assert len(folds) == 18
    assert [fold.name for fold in folds[:4]] == ["A-X", "A-Y", "A-Z", "B-X"]
    assert (folds[0].splits["b"] == "test").sum() == 20


def test_other_images_of_a_tested_patient_are_unused() -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    first = many(60)
    patients = first.patients.copy()
    patients[1] = "p0"  # row 0 is of centre A, row 1 of centre B
    first = replace(first, patients=patients)
    second = many(60, first=100)
    seconds = second.patients.copy()
    seconds[7] = "p0"
    manifests = {"a": first, "b": replace(second, patients=seconds)}
    of_a, of_b = leave_centres_out(sites, manifests, ["a"], 0)
    assert (of_a.splits["a"][0], of_a.splits["a"][1]) == ("test", "unused")
    assert (of_b.splits["a"][0], of_b.splits["a"][1]) == ("unused", "test")
    for fold in (of_a, of_b):
        assert fold.splits["b"][7] in ("unused", "test")
        assert_patients_are_whole(fold, manifests)


@pytest.mark.parametrize(
    ("centres", "leave", "message"),
    [
        (None, "a", "site a: no centre to leave out: name its column, dataset.centre"),
        (["A"] * 30, "a", "all images are of the centre A"),
        (["A"] * 29 + [""], "a", "labels.csv:31: no centre"),
        (["A"] * 30, "z", "folds.sites: no site z; the sites are a"),
    ],
)
def test_centres_that_cannot_be_left_out(centres: Any, leave: str, message: str) -> None:
    manifests = {"a": manifest_of([f"p{i}" for i in range(30)], [0, 1] * 15, centres)}
    with pytest.raises(DataError, match=message):
        leave_centres_out({"a": site_of("a")}, manifests, [leave], 0)


def test_too_few_patients_for_the_folds() -> None:
    with pytest.raises(DataError, match="too few patients for 5 parts"):
        k_folds({"a": site_of("a")}, {"a": many(4)}, 5, 0)


def test_a_fold_without_a_class_is_refused() -> None:
    manifest = manifest_of([f"p{i}" for i in range(30)], [0] * 28 + [1] * 2)
    config = config_of(kind="k_fold", k=5)
    message = r"fold \d: site a: task prognosis: no SEVERE in the \w+ split: use fewer folds"
    with pytest.raises(DataError, match=message):
        make_folds(config, {"a": site_of("a")}, {"a": manifest}, 0)


def own(**splits: Sequence[str]) -> list[Fold]:
    return [Fold("0", {name: np.array(split) for name, split in splits.items()})]


SIX = ["train", "train", "val", "val", "test", "test"]


def test_a_patient_on_two_sides_is_refused_by_rows_within_a_site_and_across() -> None:
    sites = {"a": site_of("a"), "b": site_of("b")}
    a = manifest_of(["p0", "p1", "p2", "p3", "p4", "p0"], [0, 1] * 3)
    with pytest.raises(DataError) as caught:
        check_folds(own(a=SIX), {"a": sites["a"]}, {"a": a}, {})
    assert str(caught.value) == (
        "fold 0: one patient on two sides, labels.csv:2 of a (train) and labels.csv:7 of a (test):"
        " keep a patient on one side"
    )
    manifests = {
        "a": manifest_of([f"p{i}" for i in range(6)], [0, 1] * 3),
        "b": manifest_of(["q0", "q1", "q2", "q3", "q4", "p1"], [0, 1] * 3),
    }
    with pytest.raises(DataError, match=r"labels.csv:3 of a .train. and labels.csv:7 of b"):
        check_folds(own(a=SIX, b=SIX), sites, manifests, {})
    seventh = manifest_of([*(f"q{i}" for i in range(6)), "p1"], [0, 1, 0, 1, 0, 1, 0])
    check_folds(own(a=SIX, b=[*SIX, "unused"]), sites, manifests | {"b": seventh}, {})


def test_an_image_tested_never_or_twice_is_refused() -> None:
    sites, manifests = (
        {"a": site_of("a")},
        {"a": manifest_of([f"p{i}" for i in range(6)], [0, 1] * 3)},
    )
    folds = own(a=SIX)
    check_folds(folds, sites, manifests, {})
    with pytest.raises(DataError, match=r"labels.csv:2: is tested in 0 of 1 folds where 1 are"):
        check_folds(folds, sites, manifests, {"a": 1})
    with pytest.raises(DataError, match=r"labels.csv:2: is tested in 0 of 2 folds"):
        check_folds(folds * 2, sites, manifests, {"a": 1})


def test_one_picture_on_two_sides_is_refused_by_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 8), np.uint8)
    cohort = Cohort(manifest_of([f"p{i}" for i in range(6)], [0, 1] * 3), pixels)
    check_pictures(own(a=SIX), {"a": cohort})
    twice = pixels.copy()
    twice[1] = twice[0]  # both are trained on
    check_pictures(own(a=SIX), {"a": Cohort(cohort.manifest, twice)})
    other = np.random.default_rng(1).integers(0, 255, (6, 8, 8), np.uint8)
    other[5] = pixels[0]
    with pytest.raises(DataError) as caught:
        check_pictures(own(a=SIX, b=SIX), {"a": cohort, "b": Cohort(cohort.manifest, other)})
    assert str(caught.value) == (
        "fold 0: one picture on two sides, labels.csv:2 of a (train) and labels.csv:7 of b (test):"
        " keep a picture on one side"
    )


def test_folds_share_one_image_cache(tmp_path: Path) -> None:
    manifest = many(20)
    images = tuple(tmp_path / f"{i}.png" for i in range(20))
    for i, image in enumerate(images):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 40), np.uint8)).save(image)
    manifest = replace(manifest, images=images)
    for fold in k_folds({"a": site_of("a")}, {"a": manifest}, 3, 0):
        divided = fold.apply("a", manifest)
        open_pixels(divided, PreprocessingConfig(), 32, cache_dir=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def files(root: Path, order: Sequence[int]) -> None:
    """Three folds of nine images: three are tested, three validate, three are trained on."""
    for fold in range(3):
        parts = [[f"{i}.png MILD A" for i in order[n * 3 : n * 3 + 3]] for n in range(3)]
        train, val, test = (parts[(fold + n) % 3] for n in range(3))
        write_split_files(root / str(fold), "img label center", train=train, val=val, test=test)


def test_authors_split_files_make_folds(tmp_path: Path) -> None:
    manifests = {"a": manifest_of([f"p{i}" for i in range(9)], [0, 1, 0, 1, 0, 1, 0, 1, 0])}
    sites = {"a": site_of("a", root=str(tmp_path))}
    config = config_of(kind="files", folders={"a": "folds"})
    files(tmp_path / "folds", range(9))
    folds = make_folds(config, sites, manifests, 0)
    splits = {fold.name: fold.splits["a"].tolist() for fold in folds}
    assert splits["0"] == ["train"] * 3 + ["val"] * 3 + ["test"] * 3
    ten = {"a": manifest_of([f"p{i}" for i in range(10)], [0, 1] * 5)}
    with pytest.raises(DataError, match=r"no split file names the image of labels.csv:11"):
        make_folds(config, sites, ten, 0)
    for folders, message in (({"b": "folds"}, "none for a"), ({"a": "x"}, "no fold there")):
        with pytest.raises(DataError, match=message):
            make_folds(config_of(kind="files", folders=folders), sites, manifests, 0)


def test_authors_folds_that_never_test_an_image_are_refused(tmp_path: Path) -> None:
    manifests = {"a": manifest_of([f"p{i}" for i in range(9)], [0, 1, 0, 1, 0, 1, 0, 1, 0])}
    sites = {"a": site_of("a", root=str(tmp_path))}
    files(tmp_path / "folds", range(9))
    for name in ("train", "val", "test"):
        (tmp_path / "folds" / "2" / f"{name}.txt").unlink()
    with pytest.raises(DataError, match="is tested in 0 of 2 folds where 1 are expected"):
        make_folds(config_of(kind="files", folders={"a": "folds"}), sites, manifests, 0)


def test_loco_18_on_the_original_layouts(covid_cxr: Path) -> None:
    layouts = covid_cxr / "original-layouts"
    sites = {
        "afc": SiteConfig.model_validate(aiforcovid_site(layouts / "AIforCOVID")),
        "bx": SiteConfig.model_validate(brixia_site(layouts / "BRIXIA")),
    }
    manifests = {name: read_manifest(site, 0) for name, site in sites.items()}
    folds = leave_centres_out(sites, manifests, ["afc", "bx"], 0)
    assert len(folds) == 18
    counts = {
        name: np.sum([fold.splits[name] == "test" for fold in folds], axis=0) for name in sites
    }
    assert set(counts["afc"].tolist()) == {3}
    assert set(counts["bx"].tolist()) == {6}
    for fold in folds:
        assert_patients_are_whole(fold, manifests)
    assert any("unused" in fold.splits["bx"] for fold in folds)  # patients of two vendors


def test_a_single_authors_fold_is_a_hold_out(covid_cxr: Path) -> None:
    root = covid_cxr / "original-layouts" / "BRIXIA"
    site = SiteConfig.model_validate(brixia_site(root))
    config = config_of(kind="files", folders={"bx": "folds/5"})
    (fold,) = make_folds(config, {"bx": site}, {"bx": read_manifest(site, 0)}, 0)
    assert Counter(fold.splits["bx"].tolist()) == {"train": 32, "val": 9, "test": 9}


def test_five_folds_of_the_original_layouts_pass_every_check(covid_cxr: Path) -> None:
    layouts = covid_cxr / "original-layouts"
    sites = {
        "afc": SiteConfig.model_validate(aiforcovid_site(layouts / "AIforCOVID")),
        "bx": SiteConfig.model_validate(brixia_site(layouts / "BRIXIA")),
    }
    manifests = {name: read_manifest(site, 0) for name, site in sites.items()}
    assert len(make_folds(config_of(kind="k_fold"), sites, manifests, 0)) == 5
