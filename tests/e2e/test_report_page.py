"""A report is opened in a real browser, as a reader would on a phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Found, open_page, printed_pages
from cli_builders import run_cli
from run_files import write_simulated_run
from study_files import write_study

from mdmt.report import write_report

pytestmark = pytest.mark.e2e


@pytest.fixture
def run_report(finished_run: Path) -> Path:
    assert run_cli("report", finished_run).exit_code == 0
    return finished_run / "report.html"


@pytest.fixture(scope="module")
def study_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = write_study(tmp_path_factory.mktemp("study"), backbones=("resnet18", "densenet121"))
    assert run_cli("report", study).exit_code == 0
    return study / "report.html"


@pytest.mark.parametrize(
    ("report", "heading", "plots"), [("run_report", "test", 5), ("study_report", "drawn", 20)]
)
def test_report_stands_alone_and_fits_a_phone(
    request: pytest.FixtureRequest, tmp_path: Path, report: str, heading: str, plots: int
) -> None:
    opened = tmp_path / "opened.html"  # a folded part must fit, too
    html = request.getfixturevalue(report).read_text(encoding="utf-8")
    opened.write_text(html.replace("<details>", "<details open>"), encoding="utf-8")
    found = open_page(opened, tmp_path / "browser")
    assert found.heading == heading
    assert found.requests == []
    assert found.complaints == []
    assert found.content <= found.width == 390
    assert len(found.plots) >= plots
    assert all(300 <= width <= 390 and height > 60 for width, height in found.plots)
    # Letters of plots are as high as small print, not scaled down to dust.
    assert min(height for _, height in found.texts) >= 9
    assert max(width for width, _ in found.tables) <= 390
    # Captions have the page's width, not a narrow or a wide table's.
    assert all(300 <= width <= 390 for width, _ in found.captions)


@pytest.fixture(scope="module")
def drawn_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_simulated_run(tmp_path_factory.mktemp("drawn")))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_headings_are_in_order_and_every_text_can_be_read(
    tmp_path: Path, drawn_report: Path, dark: bool
) -> None:
    found = open_page(drawn_report, tmp_path / "browser", dark=dark)
    assert found.headings[:2] == [1, 2]
    steps = zip(found.headings, found.headings[1:], strict=False)
    assert all(lower <= upper + 1 for upper, lower in steps)
    assert found.faint == []
    assert (found.requests, found.complaints) == ([], [])
    assert found.content <= found.width == 390


def test_a_report_of_four_tasks_is_printed_on_12_pages(tmp_path: Path, drawn_report: Path) -> None:
    assert 1 < printed_pages(drawn_report, tmp_path / "browser") <= 12


def test_the_browser_sees_faint_text(tmp_path: Path) -> None:
    found = _open(tmp_path, '<p style="background:#fff;color:#999">grey on white</p>')
    assert found.faint == ["grey on white"]


def _open(tmp_path: Path, html: str) -> Found:
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><h1>A page</h1>{html}")
    return open_page(tmp_path / "page.html", tmp_path / "browser")


def test_the_browser_sees_a_request_although_it_fails(tmp_path: Path) -> None:
    found = _open(tmp_path, '<img src="http://127.0.0.1:9/plot.png" alt="">')
    assert found.requests == ["http://127.0.0.1:9/plot.png"]


def test_the_browser_hears_the_console(tmp_path: Path) -> None:
    found = _open(tmp_path, "<script>nothing.at.all()</script>")
    assert "nothing is not defined" in found.complaints[0]


def test_the_browser_measures_what_overflows(tmp_path: Path) -> None:
    found = _open(tmp_path, '<div style="width:600px">wide</div>')
    assert found.content >= 600
    assert found.width == 390
