"""What the benchmark makes of its runs."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from benchmarks.summary import Row, growth, ratio, summary
from benchmarks.table import as_table, save


def shown(*rows):
    text = StringIO()
    Console(width=200, file=text).print(as_table(rows, "title"))
    return text.getvalue()


def test_a_growth_that_nobody_watched_is_refused():
    with pytest.raises(ValueError, match="too few samples"):
        growth([(0.0, 100.0)], 0, 10)


def test_growth_compares_the_medians_of_the_outer_fifths():
    samples = [(0, 100), (1, 100), (2, 900), (5, 400), (8, 110), (9, 110), (10, 110), (11, 999)]
    # 0 to 2 hold 100, 100, 900, and 8 to 10 hold 110 each; 11 is after the end.
    assert growth(samples, 0, 10) == pytest.approx(0.10)


def test_a_ratio_is_of_medians_and_its_range_of_neighbours():
    found = ratio([2.0, 30.0, 3.0], [1.0, 10.0, 2.0])
    assert found.value == 3.0 / 2.0
    assert (found.low, found.high) == (1.5, 3.0)  # 3/2 and 30/10
    assert found.runs == 3


def test_runs_that_have_no_neighbour_are_refused():
    with pytest.raises(ValueError, match="zip"):
        ratio([1.0, 2.0], [1.0])


def test_what_was_not_measured_is_neither_met_nor_missed():
    row = Row("two workers", None, target=0.65, note="not built")
    assert row.met is None
    (line,) = [line for line in shown(row).splitlines() if "two workers" in line]
    assert "not built" in line
    assert "met" not in line


@pytest.mark.parametrize(
    ("value", "larger", "met"), [(1.02, False, True), (1.04, False, False), (60, True, True)]
)
def test_the_median_decides_whether_a_target_is_met(value, larger, met):
    target = 50 if larger else 1.03
    row = Row("row", summary([value]), target=target, larger_is_better=larger)
    assert row.met is met


def test_the_table_shows_median_range_and_target():
    text = shown(Row("round", summary([0.1, 0.2, 0.4]), "s", 0.15, note="resnet18"))
    assert "0.200 s [0.100, 0.400]" in text
    assert "<= 0.15 s" in text
    assert "not met" in text


def test_the_file_holds_rows_and_machine(tmp_path):
    file = tmp_path / "out.json"
    save(file, [Row("round", summary([0.1]), "s", 0.15)], {"cores": 2})
    found = json.loads(file.read_text())
    assert (found["format"], found["cores"]) == (1, 2)
    (row,) = found["rows"]
    assert row["met"] is True
    assert row["value"] == {"value": 0.1, "low": 0.1, "high": 0.1, "runs": 1}
    assert list(tmp_path.iterdir()) == [file]
