"""Reports tell what is in the files of a run or a study, and nothing that is a secret."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builders import federation_dict
from cli_builders import errors, run_cli
from pydantic import TypeAdapter
from study_files import ARMS, SECRET, write_study

from mdmt.config import FederationConfig, save_config
from mdmt.report import write_report
from mdmt.report.canvas import arm_colours, panel
from mdmt.report.curves import Roc, calibration_bins, roc_points, roc_with_band
from mdmt.report.page import Figure, Page, Panel, Table, render_page
from mdmt.report.study import prediction_blocks
from mdmt.report.tables import paired_differences
from mdmt.report.words import without_paths
from mdmt.results.predictions import Predictions
from mdmt.results.statistics import mean_of
from mdmt.results.studies import read_study
from mdmt.tasks import AnyTask, Task
from mdmt.tasks.statistics import auroc

SMALL: dict[str, Any] = {"arms": ("local", "federated"), "folds": 2, "seeds": 1}
"""A study whose report is quickly written."""


class Reader(HTMLParser):
    """Rows of the tables, text, and attributes of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data.strip()


def report_of(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


ONE_FINDING: Task = TypeAdapter[Task](AnyTask).validate_python(
    {"kind": "multilabel", "labels": ["edema"]}
)


def predictions(
    targets: list[float], predictions: list[float], patients: list[str], folds: str = ""
) -> Predictions:
    images = [(folds[k : k + 1], f"{k}.png") for k in range(len(patients))]
    columns = np.array(targets)[:, None], np.array(predictions)[:, None]
    names = ("local", "resnet18", 0, "s", "t")
    return Predictions(*names, ONE_FINDING, tuple(images), np.array(patients), *columns)


def write_run(folder: Path, **files: Any) -> Path:
    """A run of which there are only some `files`: lists as JSON lines, the rest as JSON."""
    folder.mkdir()
    save_config(FederationConfig.model_validate(federation_dict()), folder / "federation.yaml")
    for name, value in files.items():
        if isinstance(value, list):
            lines = "".join(json.dumps(line) + "\n" for line in value)
            (folder / f"{name}.jsonl").write_text(lines)
        else:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report of a finished study."""
    return report_of(write_study(tmp_path_factory.mktemp("study")))


# What cannot be reported


def test_a_folder_that_is_neither_is_one_line(tmp_path: Path) -> None:
    result = run_cli("report", tmp_path)
    assert result.exit_code == 2
    assert "neither a run (federation.yaml) nor a study (study.yaml)" in errors(result)[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("study.yaml", "name: x\n", "study.yaml: damaged"),
        ("study.json", "{", "study.json: damaged"),
        ("study.json", "{}", "study.json: damaged: it has no versions"),
        ("statistics.json", "[]", "statistics.json: damaged"),
        ("cells/local/resnet18/fold-0/seed-0/cell.json", "{}", "cell.json: damaged: it has no arm"),
        ("results.csv", "arm,backbone\n", "results.csv: no column fold"),
        ("predictions.csv", "arm\n", "predictions.csv: no column backbone"),
    ],
)
def test_a_damaged_file_of_a_study_is_named(
    tmp_path: Path, file: str, text: str, says: str
) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    (study / file).write_text(text)
    result = run_cli("report", study)
    assert result.exit_code == 2
    assert says in errors(result)[0]
    assert not (study / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "column", "value", "says"),
    [
        ("results.csv", "value", "high", "high is not a number"),
        ("results.csv", "task", "age", "the task age is none of"),
        ("predictions.csv", "output", "Z", "the output Z is none of MILD, SEVERE"),
    ],
)
def test_a_wrong_cell_of_a_study_is_named(
    tmp_path: Path, file: str, column: str, value: str, says: str
) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    head, first, *rest = (study / file).read_text().splitlines()
    fields = first.split(",")
    fields[head.split(",").index(column)] = value
    (study / file).write_text("\n".join([head, ",".join(fields), *rest]) + "\n")
    result = run_cli("report", study)
    assert result.exit_code == 2
    assert says in errors(result)[0]


# What is not finished


def test_a_run_before_its_roll_call_says_what_is_missing(tmp_path: Path) -> None:
    page = report_of(write_run(tmp_path / "run"))
    for text in ("sites.json", "history.jsonl", "metrics.json", "booked up to round 0 of 2"):
        assert text in page


def test_a_failed_run_does_not_tell_the_message_which_may_name_a_patient(tmp_path: Path) -> None:
    event = {"event": "failed", "exit_code": 1, "message": "/data/x.png of P_17: unreadable"}
    page = report_of(write_run(tmp_path / "run", events=[event]))
    assert "The run failed; events.jsonl" in page
    assert "P_17" not in page


def test_an_unfinished_study_is_reported_from_its_finished_cells(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    for file in ("results.csv", "predictions.csv", "study.json"):
        (study / file).unlink()
    page = Reader(report_of(study))
    assert "unfinished" in page.text
    assert [row for row in page.rows if row[:1] == ["federated"]]


def test_a_study_without_a_finished_cell_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    for file in study.iterdir():
        if file.is_file() and file.name != "study.yaml":
            file.unlink()
    shutil.rmtree(study / "cells")
    page = Reader(report_of(study))
    assert "The study is unfinished: 0 cells so far" in page.text
    assert "drawn" in page.text


# What is told


def test_a_run_tells_the_numbers_of_its_files(finished_run: Path) -> None:
    page = Reader(report_of(finished_run))
    metrics = json.loads((finished_run / "metrics.json").read_text())
    test = metrics["checkpoints"]["last"]["sites"]["clinic"]["test"]
    low, high = test["severity/mae_low"], test["severity/mae_high"]
    rows = [row for row in page.rows if row[0] == "federated, last (2)"]
    assert [f"{test['severity/mae']:.3f} [{low:.3f}, {high:.3f}]"] == [
        row[1] for row in rows if row[1].startswith(f"{test['severity/mae']:.3f}")
    ]
    card = json.loads((finished_run / "sites.json").read_text())["sites"]["clinic"]
    (site,) = (row for row in page.rows if row[:2] == ["clinic", "severity"])
    assert site[2:5] == [str(card["images"][split]) for split in ("train", "val", "test")]
    assert site[-1] == card["data"]
    assert "No update was refused" in page.text


def test_small_test_and_validation_sets_are_caveats(finished_run: Path) -> None:
    text = Reader(report_of(finished_run)).text
    card = json.loads((finished_run / "sites.json").read_text())["sites"]["clinic"]
    assert f"severity at clinic has only {card['images']['test']} test image" in text
    assert "too few patients to choose a round by" in text


def test_refusals_are_listed(tmp_path: Path) -> None:
    line = {
        "round": 1,
        "sites": {"a": {"validation": {}, "bytes_up": 2e6, "seconds": 1.0, "weight": 1.0}},
        "tasks": {},
        "refusals": {"b": "non-finite"},
        "seconds": 3.0,
    }
    page = Reader(report_of(write_run(tmp_path / "run", history=[line])))
    assert "b in round 1: non-finite" in page.text
    (row,) = (row for row in page.rows if row[0] == "a")
    assert row == ["a", "1", "1.000", "0", "1.0", "0.0 MB", "2.0 MB"]


def test_a_study_tells_mean_and_error_of_its_test_sets(tmp_path: Path) -> None:
    """Two folds are two test sets; two seeds test the same images."""
    study = write_study(tmp_path / "study", folds=2, seeds=2)
    cells = read_study(study).values("local", "hospital", "prognosis", "auroc")
    assert len(cells) == 4
    folds = ("fold 0", "fold 1")
    values = [np.mean([v for name, v in cells.items() if name.fold == fold]) for fold in folds]
    error = abs(values[0] - values[1]) / 2
    page = Reader(report_of(study))
    row = next(row for row in page.rows if row[0] == "local")
    assert row[1] == f"{np.mean(values):.3f} ± {error:.3f}"
    assert "Unit of analysis: the cell" in page.text


def test_what_an_arm_cost_tells_its_rounds(page: str) -> None:
    """Six cells of 1.5 s; six rounds each, where an arm learns in rounds."""
    rows = Reader(page).rows
    assert ["federated", "6", "9", "6", "-", "hospital: 12"] in rows
    assert ["constant", "6", "9", "-", "-", "hospital: 12"] in rows


def test_backbones_are_rows_and_arms_are_columns(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", backbones=("resnet18", "googlenet"), **SMALL)
    page = Reader(report_of(study))
    assert ["backbone", *SMALL["arms"]] in page.rows
    assert [row[0] for row in page.rows if "googlenet" in row[0] or "resnet18" in row[0]]


def test_sites_of_one_task_are_also_told_together(tmp_path: Path) -> None:
    """The mean is weighted by test images: (3·0.5 + 1·0.9) / 4."""
    study = write_study(tmp_path / "study", **SMALL)
    file = study / "results.csv"
    rows = ["arm,backbone,fold,seed,site,task,metric,value,n"]
    for site, value, n in (("a", 0.5, 3), ("b", 0.9, 1)):
        rows.append(f"local,resnet18,fold 0,0,{site},prognosis,auroc,{value},{n}")
    file.write_text("\n".join(rows) + "\n")
    found = read_study(study).values("local", "all", "prognosis", "auroc")
    assert list(found.values()) == [pytest.approx(0.6)]
    assert "prognosis at all sites together" in report_of(study)


def test_differences_are_paired_by_cell(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path / "study", folds=2, seeds=2))
    local = study.values("local", "clinic", "severity", "mae")
    pooled = study.values("pooled", "clinic", "severity", "mae")
    pairs = paired_differences(study, "severity", "clinic")["pooled"]
    assert pairs == {name: pooled[name] - local[name] for name in local}


def test_a_test_against_the_reference_is_told_as_arm_minus_reference(page: str) -> None:
    """The files have local - federated: sign, interval and effect are turned round."""
    reader = Reader(page)
    (difference,) = (row for row in reader.rows if row[:1] == ["federated"] and "+1.25" in row)
    assert difference[4:] == ["+1.25", "0.032", "0.062"]
    (delong,) = (row for row in reader.rows if row[:2] == ["federated", "0"] and len(row) == 6)
    assert delong == ["federated", "0", "+0.080", "[+0.010, +0.150]", "0.021", "0.200"]
    assert ["federated", "0.900 [0.800, 0.950]"] in reader.rows
    assert "(better, Holm-corrected paired t test p 0.032)" in reader.text
    assert "Unit of analysis: patients." in reader.text


def test_no_arm_is_called_better_without_a_test_that_says_so(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    file = study / "statistics.json"
    file.write_text(file.read_text().replace("0.0321", "0.06"))
    assert "(no difference shown, Holm-corrected paired t test p 0.060)" in report_of(study)
    file.unlink()
    text = Reader(report_of(study)).text
    assert "statistics.json is missing or empty" in text
    assert "(not tested)" in text


def test_caveats_of_the_study_come_first(page: str) -> None:
    caveats = page.partition('id="caveats"')[2].partition("</section>")[0]
    assert "<li>the sites are drawn.</li>" in caveats
    assert page.index('id="caveats"') < page.index('id="results"')


def test_an_arm_that_lacks_cells_is_a_caveat(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", folds=2, seeds=2)
    file = study / "results.csv"
    kept = [
        line for line in file.read_text().splitlines() if "pooled,resnet18,fold 1,1" not in line
    ]
    file.write_text("\n".join(kept) + "\n")
    assert "pooled has no result in 1 of 4 combinations" in report_of(study)


def test_every_arm_keeps_its_colour_and_no_two_share_one() -> None:
    few, many = arm_colours(["local", "federated"]), arm_colours([*ARMS, "fedbn", "fedadam"])
    assert few.items() <= many.items()
    assert len(set(many.values())) == len(many)


# What is not told


def test_no_patient_no_image_and_no_path_comes_into_a_report(
    tmp_path: Path, finished_run: Path
) -> None:
    caveats = ["/secret/place/x.csv is short"]
    study = report_of(write_study(tmp_path / "study", **SMALL, caveats=caveats))
    assert SECRET not in study
    assert "…/x.csv is short" in study
    for page in (study, report_of(finished_run)):
        assert "/secret" not in page
        assert str(finished_run.parent) not in page
        assert not re.search(r"(?<![<\w.:])/(tmp|home|root|work|data)/", page)


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    config = yaml.safe_load((study / "study.yaml").read_text()) | {"name": "<script>x</script>"}
    (study / "study.yaml").write_text(yaml.safe_dump(config))
    for name in ("results.csv", "predictions.csv"):
        text = (study / name).read_text().replace("resnet18", "<b>$n$&")
        (study / name).write_text(text)
    page = report_of(study)
    assert "<script" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;x" in page


def test_a_report_refers_to_nothing_outside_itself(page: str) -> None:
    links = [v for _, name, v in Reader(page).attributes if name.endswith(("href", "src"))]
    assert links
    assert all(link.startswith("#") for link in links)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_ids_of_a_page_are_unique_and_every_reference_has_one(page: str) -> None:
    attributes = Reader(page).attributes
    ids = [value for _, name, value in attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, name, v in attributes if name.endswith("href")}
    used |= {v[5:-1] for _, name, v in attributes if name == "clip-path"}
    assert used <= set(ids)


def test_every_plot_is_told_in_words(page: str) -> None:
    attributes = Reader(page).attributes
    plots = sum(tag == "svg" and name == "aria-hidden" for tag, name, _ in attributes)
    images = sum(name == "role" and value == "img" for _, name, value in attributes)
    assert plots == images > 10
    assert all(value for _, name, value in attributes if name == "aria-label")


def test_a_report_is_the_same_bytes_again(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", **SMALL)
    assert report_of(study) == report_of(study)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/hospital/labels.csv", "…/labels.csv"),
        ("no column in /a/b.csv: add it", "no column in …/b.csv: add it"),
        ("C:\\Users\\x\\labels.csv", "…/labels.csv"),
        ("~/images", "…/images"),
        ("prognosis/auroc", "prognosis/auroc"),
        ("1 / 2", "1 / 2"),
    ],
)
def test_a_path_is_cut_down_to_its_last_part(text: str, told: str) -> None:
    assert without_paths({"key": [text]}) == {"key": [told]}


# Numbers


def test_mean_error_and_interval_by_hand() -> None:
    found = mean_of([1.0, 2.0, 3.0])
    assert found.error == pytest.approx(1 / np.sqrt(3))
    assert found.low == pytest.approx(2 - 4.302653 / np.sqrt(3))  # t of 2 degrees of freedom
    assert str(mean_of([0.5])) == "0.500"
    assert mean_of([]).n == 0


def roc_of(tested: Predictions) -> Roc:
    roc = roc_with_band(tested, 0)
    assert roc is not None
    return roc


def test_area_under_the_curve_is_the_auroc() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, 60).astype(float)
    scores = np.round(truth + generator.normal(size=60), 1)  # with ties
    roc = roc_of(predictions(truth.tolist(), scores.tolist(), [f"p{k}" for k in range(60)]))
    assert roc.area == pytest.approx(auroc(truth == 1, scores), abs=1e-12)
    assert (np.diff(roc.true_positive) >= 0).all()
    assert (roc.low <= roc.true_positive).all()
    assert (roc.true_positive <= roc.high).all()


def test_points_of_a_curve_by_hand() -> None:
    """Two images share a score: they pass together, one of each class."""
    positive = np.array([True, False, True, False])
    false, true = roc_points(positive, np.array([0.9, 0.5, 0.5, 0.1]))
    assert false.tolist() == [0, 0, 0.5, 1]
    assert true.tolist() == [0, 0.5, 1, 1]


def test_perfect_scores_have_no_width() -> None:
    people = [f"p{k}" for k in range(20)]
    roc = roc_of(predictions([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 10, people))
    assert roc.area == 1.0
    assert (roc.low[1:] == roc.high[1:]).all()


def test_images_of_a_patient_are_drawn_together() -> None:
    """Ten images of each patient say no more than one."""
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 40).astype(float)
    scores = truth + 1.5 * generator.normal(size=40)
    people = [f"p{k}" for k in range(40)]
    once = roc_of(predictions(truth.tolist(), scores.tolist(), people))
    ten = predictions(truth.tolist() * 10, scores.tolist() * 10, people * 10)
    repeated = roc_of(ten)
    assert repeated.area == pytest.approx(once.area)
    assert repeated.low == pytest.approx(once.low)


def test_a_curve_ranks_within_folds() -> None:
    """Fold 0: 3 of 4 pairs in order, fold 1: 1 of 2; fold 2 has one class, fold 1 high scores."""
    truth = [0, 1, 0, 1, 0, 1, 0, 1]
    scores = [0.1, 0.2, 0.3, 0.4, 0.8, 0.9, 0.95, 0.0]
    tested = predictions(truth, scores, list("abcdefgh"), folds="00001112")
    assert roc_of(tested).area == pytest.approx((3 + 1) / (4 + 2))
    assert auroc(np.array(truth) == 1, np.array(scores), tested.folds) == pytest.approx(4 / 6)
    assert auroc(np.array(truth) == 1, np.array(scores)) == pytest.approx(6 / 16)


def test_one_page_tells_one_interval_of_an_auroc(page: str) -> None:
    """That of statistics.json: [0.800, 0.950] in the table and above every curve."""
    text = Reader(page).text
    titles = re.findall(r"AUROC 0\.\d{3} \[[^]]*\]", text)
    assert len(titles) >= len(ARMS)
    assert all(title.endswith("[0.800, 0.950]") for title in titles)


def test_a_model_that_diverged_has_no_curve() -> None:
    assert roc_with_band(predictions([0, 1], [0.1, np.nan], list("ab")), 0) is None


def test_calibration_bins_hold_every_image_once() -> None:
    probabilities = np.linspace(0, 1, 100)
    bins = calibration_bins(probabilities > 0.5, probabilities)
    assert [one.images for one in bins] == [20] * 5
    assert [one.observed for one in bins] == [0, 0, 0.5, 1, 1]
    assert all(one.low <= one.observed <= one.high for one in bins)


def test_images_of_one_probability_are_in_one_bin_whatever_their_order() -> None:
    """Sixty images in three parts of twenty; the first forty-five share a probability."""
    probabilities = np.array([0.2] * 45 + [0.9] * 15)
    positive = np.array([True] * 15 + [False] * 30 + [True] * 15)
    bins = calibration_bins(positive, probabilities)
    assert [(one.images, one.observed) for one in bins] == [(45, 15 / 45), (15, 1.0)]
    shuffle = np.random.default_rng(0).permutation(60)
    assert calibration_bins(positive[shuffle], probabilities[shuffle]) == bins


def test_a_name_in_a_plot_is_neither_a_formula_nor_markup() -> None:
    panels: list[Panel] = []
    with panel(panels, "title", "x", "y", alt="words") as axes:
        axes.set_xticks([0, 1], ["a$_x$b", "<b>&"])
    assert ">a$_x$b<" in panels[0].svg
    assert ">&lt;b&gt;&amp;<" in panels[0].svg


@pytest.mark.parametrize(
    ("space", "panels"),
    [
        ({"kind": "classification", "classes": ["a", "b", "c"]}, {"ROC": 3, "confusion": 1}),
        ({"kind": "multilabel", "labels": ["edema", "effusion"]}, {"ROC": 2, "confusion": 0}),
        ({"kind": "ordinal", "outputs": ["A", "B"], "levels": 4}, {"MAE": 1, "global score": 1}),
        (
            {"kind": "regression", "outputs": ["A"], "range": [0, 3]},
            {"Bland": 1, "global": 0},
        ),
    ],
)
def test_every_kind_of_task_has_its_figures(
    tmp_path: Path, space: dict[str, Any], panels: dict[str, int]
) -> None:
    task: Task = TypeAdapter[Task](AnyTask).validate_python(space)
    generator = np.random.default_rng(0)
    targets = generator.integers(0, len(task.labels) % 2 + 2, (40, task.width)).astype(float)
    people, images = np.array([f"p{k}" for k in range(40)]), [(str(k % 2), "") for k in range(40)]
    scores = generator.random((40, len(task.labels)))
    names = ("local", "resnet18", 0, "s", "t")
    drawn = Predictions(*names, task, tuple(images), people, targets, scores)
    study = read_study(write_study(tmp_path / "study", **SMALL))
    result = study.results[0]._replace(task="t", site="s")
    study = replace(
        study,
        spaces={"t": task},
        results=[result],
        predictions=[drawn],
    )
    figures = [block for block in prediction_blocks(study) if isinstance(block, Figure)]
    for word, number in panels.items():
        assert sum(word in figure.caption for figure in figures) == number
    assert all(figure.panels for figure in figures)


def test_a_learning_curve_has_no_tick_between_two_rounds(tmp_path: Path) -> None:
    lines = [
        {
            "round": number,
            "sites": {"a": {"validation": {"prognosis/auroc": 0.5 + number / 10}}},
            "tasks": {},
            "refusals": {},
            "seconds": 1.0,
        }
        for number in (1, 2)
    ]
    page = report_of(write_run(tmp_path / "run", history=lines))
    (svg,) = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    ticks = set(re.findall(r"<text[^>]*>([\d.]+)</text>", svg))
    assert {"1", "2", "0.60"} <= ticks
    assert not {"1.2", "1.4"} & ticks


def test_a_table_says_what_its_rows_are() -> None:
    table = Table("a & b", ["site", "n"], [["x", "1"]], note="Unit")
    page = render_page(Page("t", "run", ["s"], [], [("a", "A", [table])]))
    for text in ("a &amp; b", '<th scope="col">n</th>', '<th scope="row">x</th>', "Unit"):
        assert text in page
