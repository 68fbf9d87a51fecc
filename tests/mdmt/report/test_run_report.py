"""The report of a run answers first, and says better or worse only with evidence."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import write_simulated_run

from mdmt.report import write_report
from mdmt.report.answer import gain_charts, run_answer
from mdmt.report.decisions import decision_table
from mdmt.report.page import Forest, ForestRow
from mdmt.results.predictions import Predictions
from mdmt.results.runs import read_run
from mdmt.results.simulated import simulated_predictions
from mdmt.tasks import Multilabel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simulated_run(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_the_answer_comes_first_and_names_whom_it_helped(folder: Path, page: str) -> None:
    verdict, *rest = run_answer(read_run(folder))
    assert verdict.startswith("Yes, for a part. Better than training alone: Severe course at")
    assert verdict.endswith("No difference is shown for findings at city-hospital.")
    assert any(text.startswith("Training did not beat the untrained network") for text in rest)
    assert page.index("Did it help") < page.index(verdict) < page.index('id="caveats"')
    assert "simulated on one machine" in page


def changed_answer(folder: Path, **ends: float | None) -> list[str]:
    """The answer if every difference to local training had this interval."""
    run = read_run(folder)
    metrics: dict[str, Any] = json.loads(json.dumps(run.metrics))
    for site in metrics["checkpoints"]["last"]["differences"]["local"].values():
        for key in site:
            for end, value in ends.items():
                if key.endswith(end):
                    site[key] = value
    return list(run_answer(replace(run, metrics=metrics)))


def test_without_an_interval_nothing_is_said_to_help(folder: Path) -> None:
    answer = changed_answer(folder, _low=None, _high=None)
    assert answer[0].startswith("Not shown.")
    assert not any(re.search(r"difference [^)]*(better|worse)", text) for text in answer)


def test_higher_is_better_for_one_metric_and_worse_for_another(folder: Path) -> None:
    answer = changed_answer(folder, _low=0.01, _high=0.02)
    assert answer[0].startswith("It depends. Better than training alone: Severe course at")
    assert "Worse: severity at lung-clinic, age at lung-clinic." in answer[0]


def test_charts_put_better_to_the_right(folder: Path) -> None:
    charts = {chart.caption: chart for chart in gain_charts(read_run(folder))}
    assert set(charts) == {"Gain in AUROC", "Gain in MAE", "Gain in MAE (years)"}
    for bar in charts["Gain in MAE (years)"].bars:
        assert bar.verdict == "better"
        assert bar.low is not None
        assert bar.high is not None
        assert 0 < bar.low <= bar.value <= bar.high


def test_a_chart_holds_all_its_ends() -> None:
    chart = Forest("x", [ForestRow("a", 0.2, -0.1, 0.31, ""), ForestRow("b", -0.4, None, None, "")])
    assert chart.limit == 0.5
    assert chart.place(0) == 50
    assert chart.place(-0.5) == 0
    assert Forest("empty", []).limit == 1


def test_a_finding_of_few_patients_is_a_caveat_and_has_its_counts(page: str) -> None:
    assert re.search(r"findings at city-hospital has \d test patients? with rare: fewer", page)
    assert "too few patients to choose a round by" in page


def test_units_and_titles_are_shown_and_years_have_no_global_score(page: str) -> None:
    for text in (
        "MAE (years)",
        "R²",
        "predicted − true (years)",
        "age at lung-clinic: errors over the mean of predicted and true (Bland-Altman)",
        "severity at lung-clinic: predicted against true global score",
    ):
        assert text in page
    assert "age at lung-clinic: predicted against true global score" not in page


def test_a_run_of_other_machines_has_no_predictions(folder: Path) -> None:
    run = read_run(folder)
    assert len(list(simulated_predictions(run))) == 4
    elsewhere = run.config.model_copy(update={"sites": {}})
    assert list(simulated_predictions(replace(run, config=elsewhere))) == []


def test_decisions_by_hand() -> None:
    """Of 10 with edema 8 are found; of 5 without it 1 is not. Few have no interval."""
    truth = np.array([[1.0]] * 10 + [[0.0]] * 5 + [[np.nan]])
    scores = np.array([[0.9]] * 8 + [[0.1]] * 2 + [[0.5]] + [[0.2]] * 4 + [[0.9]])
    task, images = Multilabel(labels=("edema",)), tuple(("", str(k)) for k in range(16))
    people = np.array([str(k) for k in range(16)])
    tested = Predictions("federated", "b", 0, "s", "t", task, images, people, truth, scores)
    ((name, sensitivity, specificity, yes, no),) = decision_table("x", {"federated": tested}).rows
    assert name == "edema"
    assert sensitivity == "0.80 (8 of 10) [0.49, 0.94]"
    assert specificity == "0.80 (4 of 5)"
    assert (yes, no) == ("0.89 (8 of 9)", "0.67 (4 of 6)")


def test_plots_follow_the_colours_of_the_page(page: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert "currentColor" in plots
    assert "#1b1f24" not in plots
