"""Reports: one HTML file with the setup, results and limits of a run or a study."""

from pathlib import Path

from mdmt.errors import BadInput
from mdmt.files import write_text

__all__ = ["write_report"]


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run or of a study, finished or not.

    The file needs no network and contains neither patient ids nor paths.

    Parameters
    ----------
    folder : Path
        With a ``federation.yaml`` (run) or a ``study.yaml`` (study).

    Returns
    -------
    Path
        The report; it replaces an earlier one.

    Raises
    ------
    BadInput
        The folder is neither of them, or one of its files is damaged.
    """
    from mdmt.report.page import render_page
    from mdmt.report.run import run_page
    from mdmt.report.study import study_page
    from mdmt.results.runs import read_run
    from mdmt.results.studies import read_study

    if (folder / "study.yaml").is_file():
        page = study_page(read_study(folder))
    elif (folder / "federation.yaml").is_file():
        page = run_page(read_run(folder))
    else:
        raise BadInput(
            f"{folder}: neither a run (federation.yaml) nor a study (study.yaml); give the folder"
            " that `mdmt simulate` or `mdmt study` wrote"
        )
    target = folder / "report.html"
    write_text(target, render_page(page))
    return target
