"""The tables of statistics.json, on results and predictions made by hand."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mdmt.results.delong import compare_aurocs
from mdmt.results.predictions import PREDICTION_COLUMNS, CellName, TestSets, read_predictions
from mdmt.results.statistics import compare_pairs
from mdmt.results.studies import Result, Study, with_all_sites
from simulation.study.statistics import UNITS, study_statistics
from simulation.study.tables import shortcut_caveats

TRUTH = [0, 0, 0, 0, 1, 1, 1, 1]
SCORES = {
    "local": [0.1, 0.6, 0.3, 0.7, 0.4, 0.8, 0.5, 0.9],
    "pooled": [0.2, 0.1, 0.3, 0.6, 0.5, 0.9, 0.8, 0.7],
}


def result(
    arm, value, *, seed=0, fold="0", site="hospital", n=10, metric="auroc", backbone="test_resnet"
):
    return Result(arm, CellName(backbone, fold, seed), site, "prognosis", metric, value, n)


def statistics_of(study, results, files):
    """Tables of a study with these results and files of predictions."""
    spaces = {name: task.space for name, task in study.federation.tasks.items()}
    predictions = read_predictions(files, spaces)
    written = Study(
        folder=None,
        config=study.model_dump(mode="json"),
        facts={},
        spaces=spaces,
        results=with_all_sites(results),
        predictions=predictions,
        tests=TestSets(predictions, redrawn=study.redraw),
        statistics=None,
        cells={},
    )
    return study_statistics(written)


@pytest.fixture
def study(load):
    return load(arms=["constant", "local", "pooled"], seeds=[0, 1], redraw=True)


@pytest.fixture
def cells(study, tmp_path):
    """One seed, two folds: patients p0 … p3 have two images each, one per fold."""
    made = []
    for arm in study.arms:
        for fold in ("0", "1"):
            file = tmp_path / f"{arm.label}-{fold}.csv"
            with file.open("w", newline="") as stream:
                table = csv.writer(stream)
                table.writerow(PREDICTION_COLUMNS)
                for index in range(8):
                    if str(index % 2) == fold:
                        score = SCORES.get(arm.label, [0.5] * 8)[index]
                        place = [arm.label, "test_resnet", fold, 0, "hospital", "prognosis"]
                        image = [f"labels.csv:{index}", f"p{index // 2}", "SEVERE"]
                        table.writerow([*place, *image, TRUTH[index], score])
            made.append(file)
    return made


def test_every_table_states_its_unit(study, cells):
    statistics = statistics_of(study, [result("local", 0.7)], cells)
    for name in ("summary", "paired", "intervals", "delong"):
        assert statistics[name]["unit"] == UNITS[name]
    assert UNITS["summary"].startswith("cells")
    assert UNITS["paired"].startswith("cells")
    assert UNITS["intervals"].startswith("patients")
    assert UNITS["delong"].startswith("patients")


def test_summary_is_the_mean_over_cells_and_sites_weigh_by_their_images(study):
    results = [
        result("local", 0.6, seed=0),
        result("local", 0.8, seed=1),
        result("local", 0.9, seed=0, site="ward", n=30),
        result("local", None, seed=1, site="ward", n=30),
    ]
    rows = statistics_of(study, results, [])["summary"]["rows"]
    found = {row["site"]: row for row in rows}
    assert found["hospital"]["mean"] == pytest.approx(0.7)
    assert found["hospital"]["error"] == pytest.approx(0.1)
    assert (found["ward"]["cells"], found["ward"]["undefined"]) == (1, 1)
    # Seed 0: (.6·10 + .9·30) / 40; where a site is undefined, so is the mean.
    assert found["all"]["mean"] == pytest.approx(0.825)
    assert (found["all"]["cells"], found["all"]["undefined"]) == (1, 1)


def test_paired_rows_compare_matched_cells_only(study):
    local = {("0", 0): 0.70, ("1", 0): 0.60, ("0", 1): 0.65, ("1", 1): 0.62}
    pooled = {("0", 0): 0.75, ("1", 0): 0.61, ("0", 1): 0.71}  # one cell is undefined
    results = [result("constant", 0.5, fold=f, seed=s) for f, s in local]
    results += [result("local", v, fold=f, seed=s) for (f, s), v in local.items()]
    results += [result("pooled", v, fold=f, seed=s) for (f, s), v in pooled.items()]
    results += [result("pooled", None, fold="1", seed=1)]
    (row,) = statistics_of(study, results, [])["paired"]["rows"]
    assert (row["arm_a"], row["arm_b"], row["n"]) == ("local", "pooled", 3)
    expected = compare_pairs([0.70, 0.60, 0.65], [0.75, 0.61, 0.71])
    assert row["difference"] == pytest.approx(-0.04)
    assert (row["t"], row["p_t"], row["p_w"]) == (expected.t, expected.p_t, expected.p_w)
    assert row["p_t_holm"] == row["p_t"], "one comparison needs no correction"


def test_delong_and_intervals_are_over_patients_and_rank_within_folds(study, cells, monkeypatch):
    monkeypatch.setattr("mdmt.enough.FEWEST_OF_A_CLASS", 2)  # the four patients are few
    statistics = statistics_of(study, [], cells)
    (row,) = statistics["delong"]["rows"]
    assert (row["images"], row["patients"], row["output"]) == (8, 4, "SEVERE")
    # Images as they stand in the folds' tables: even ones, then odd ones.
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    truth = np.array(TRUTH)[order] == 1
    scores = [np.array(SCORES[arm])[order] for arm in ("local", "pooled")]
    folds = np.array(list("00001111"))
    people = np.array([f"p{i // 2}" for i in order])
    expected = compare_aurocs(truth, *scores, people, folds)
    # Each fold has two images of each outcome: four pairs of its own.
    by_fold = {
        arm: np.mean([roc_auc_score(TRUTH[f::2], SCORES[arm][f::2]) for f in (0, 1)])
        for arm in SCORES
    }
    assert row["auroc_a"] == pytest.approx(by_fold["local"])
    assert (row["difference"], row["error"]) == (expected.difference, expected.error)
    intervals = {one["arm"]: one for one in statistics["intervals"]["rows"]}
    assert set(intervals) == {"constant", "local", "pooled"}
    assert intervals["pooled"]["value"] == pytest.approx(by_fold["pooled"])
    assert intervals["pooled"]["low"] <= intervals["pooled"]["value"] <= intervals["pooled"]["high"]
    assert intervals["pooled"]["patients"] == 4


def write_cell(folder, arm, fold, rows, *, seed=0):
    """Predictions of a cell: rows of image, patient, target and prediction at the hospital."""
    file = folder / f"{arm}-{fold}-{seed}.csv"
    with file.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(PREDICTION_COLUMNS)
        for image, patient, target, prediction in rows:
            place = [arm, "test_resnet", fold, seed, "hospital", "prognosis"]
            table.writerow([*place, image, patient, "SEVERE", target, prediction])
    return file


def test_a_constant_ranks_nothing_whatever_constant_each_fold_has(study, tmp_path):
    """Its constant is the share of SEVERE in training: high where the test fold has few."""
    cells = [
        write_cell(
            tmp_path,
            "constant",
            fold,
            [(f"{fold}{i}", f"p{fold}{i}", int(i < severe), 1 - severe / 10) for i in range(10)],
        )
        for fold, severe in (("0", 2), ("1", 5), ("2", 8))
    ]
    (row,) = statistics_of(study, [], cells)["intervals"]["rows"]
    assert (row["value"], row["low"], row["high"]) == (0.5, 0.5, 0.5)
    assert (row["images"], row["patients"]) == (30, 30)


def test_an_image_that_three_folds_test_is_one_image(study, tmp_path):
    rows = [(f"i{i}", f"p{i}", i % 2, i / 10) for i in range(10)]
    cells = [
        write_cell(tmp_path, arm, fold, rows)
        for arm in ("local", "pooled")
        for fold in ("A x 0", "A x 1", "A x 2")
    ]
    statistics = statistics_of(study, [], cells)
    for table in ("intervals", "delong"):
        row = statistics[table]["rows"][0]
        assert (row["images"], row["patients"]) == (10, 10)


def loco_18(folder, arms):
    """Two hospitals x three vendors: the images of a hospital are tested in three folds."""
    return [
        write_cell(
            folder,
            arm,
            f"{hospital} x {vendor}",
            [(f"{hospital}{i}", f"{hospital}{i}", i % 2, i / 10) for i in range(10)],
        )
        for arm in arms
        for hospital in "AB"
        for vendor in range(3)
    ]


def test_cells_that_test_the_same_images_count_once(load, tmp_path):
    """Local is one training in three folds; six values would make its error √5 times smaller."""
    study = load(arms=["constant", "local", "pooled"])
    cells = loco_18(tmp_path, ["local", "pooled"])
    values = {"local": [0.6] * 3 + [0.8] * 3, "pooled": [0.6, 0.7, 0.8, 0.8, 0.9, 1.0]}
    folds = [f"{hospital} x {vendor}" for hospital in "AB" for vendor in range(3)]
    results = [
        result(arm, value, fold=name)
        for arm in values
        for name, value in zip(folds, values[arm], strict=True)
    ]
    statistics = statistics_of(study, results, cells)
    summary = {row["arm"]: row for row in statistics["summary"]["rows"]}
    # Two test sets: .6 and .8 (local), .7 and .9 (pooled), so s/√n = .1 for both.
    assert summary["local"]["mean"] == pytest.approx(0.7)
    assert summary["pooled"]["mean"] == pytest.approx(0.8)
    for row in summary.values():
        assert (row["n"], row["cells"]) == (2, 6)
        assert row["error"] == pytest.approx(0.1)
    (pair,) = statistics["paired"]["rows"]
    assert (pair["n"], pair["p_t"]) == (2, None), "both hospitals differ by .1: no spread"


@pytest.mark.parametrize(("redraw", "n"), [(False, 1), (True, 2)])
def test_seeds_are_replicates_only_where_they_draw_other_images(load, tmp_path, redraw, n):
    study = load(arms=["local", "pooled"], seeds=[0, 1], redraw=redraw)
    rows = [("a", "p", 0, 0.2), ("b", "q", 1, 0.7)]
    cells = [write_cell(tmp_path, "local", "0", rows, seed=seed) for seed in (0, 1)]
    results = [result("local", 0.6, seed=0), result("local", 0.8, seed=1)]
    (row,) = statistics_of(study, results, cells)["summary"]["rows"]
    assert (row["n"], row["mean"]) == (n, pytest.approx(0.7))


def test_all_backbones_count_each_test_set_once(load, tmp_path):
    """Metadata sees no image: its value is repeated for every backbone."""
    study = load(
        arms=[{"kind": "metadata", "columns": ["age"]}, "local"],
        backbones=["test_resnet", "test_vit"],
    )
    results = [
        result(arm, value, fold=fold, backbone=backbone)
        for backbone, shift in (("test_resnet", 0.0), ("test_vit", 0.1))
        for fold in "01"
        for arm, value in (("metadata", 0.5), ("local", 0.6 + shift + int(fold) / 10))
    ]
    rows = statistics_of(study, results, [])["paired"]["rows"]
    (both,) = (row for row in rows if row["backbone"] == "all")
    # Fold 0: -.1 and -.2; fold 1: -.2 and -.3.
    assert (both["n"], both["difference"]) == (2, pytest.approx(-0.2))
    assert both["error"] == pytest.approx(0.05)


def test_an_arm_that_lacks_a_site_has_no_mean_over_all_sites(study):
    results = [
        result("local", 0.5, n=10),
        result("local", 0.9, site="ward", n=10),
        result("constant", 0.5, n=10),
    ]
    rows = statistics_of(study, results, [])["summary"]["rows"]
    assert [(row["arm"], row["mean"]) for row in rows if row["site"] == "all"] == [
        ("local", pytest.approx(0.7))
    ]


def test_a_shortcut_is_told(load):
    study = load(arms=["local", {"kind": "metadata", "columns": ["view"]}])

    def caveats(metadata, local):
        results = [result("metadata", metadata), result("local", local)]
        return " ".join(shortcut_caveats(study, statistics_of(study, results, [])))

    assert "metadata alone gives auroc 0.800, the best arm" in caveats(0.80, 0.81)
    assert "shortcut" not in caveats(0.70, 0.81)
