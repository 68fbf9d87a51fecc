"""The reader of AIforCOVID: radiographs and outcomes of patients at six Italian hospitals."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mdmt.config.datasets import AIforCOVID
from mdmt.config.site import SiteConfig, SiteTask
from mdmt.data.manifest import Manifest
from mdmt.data.published import Cells, Layout, image_file, read_published
from mdmt.data.split_files import image_id
from mdmt.data.tabular import Issue, Row, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError

RELEASES = {
    Path("AIforCOVID.xlsx"): Path("imgs"),
    Path("AIforCOVID_r2.xlsx"): Path("imgs_r2"),
    Path("AIforCOVID_r3.xlsx"): Path("imgs_r3"),
}
"""Image folder by spreadsheet, for each of the three releases."""
HOSPITALS = tuple("ABCDEF")
OUTCOME = "Prognosis"


def read_aiforcovid(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read the spreadsheets of AIforCOVID one after the other.

    The centre of an image is its ``Hospital``. Each image id (``P_7``, ``P_1_7``, ``P_2_7``,
    ``P_3_7``) counts as one patient, unless `dataset.patient` names a column of patient ids. A task
    without `columns` reads ``Prognosis``. The splits come from the split files if there are any;
    otherwise patients are split at random.

    Parameters
    ----------
    site : SiteConfig
        Its `dataset` is an `AIforCOVID`.
    seed : int

    Returns
    -------
    Manifest
    list of Issue

    Raises
    ------
    DataError
        There is no spreadsheet, or columns are missing.
    """
    dataset = site.dataset
    assert isinstance(dataset, AIforCOVID)
    tasks = {
        name: entry if entry.columns else entry.model_copy(update={"columns": (OUTCOME,)})
        for name, entry in site.tasks.items()
    }
    site = site.model_copy(update={"tasks": tasks})
    tabular = _read_spreadsheets(dataset, tasks)
    layout = Layout(
        image="ImageFile",
        patient=dataset.patient or "patient",
        centre="Hospital",
        label=OUTCOME,
        label_in_split_files="label",
        meaning=str,
        added=(),
        parse=_check_hospital,
    )
    return read_published(tabular, site, seed, layout)


def _read_spreadsheets(dataset: AIforCOVID, tasks: Mapping[str, SiteTask]) -> TabularFile:
    """Join the rows of all spreadsheets. Add paths of image files and the column ``patient``."""
    wanted = {"ImageFile": "image names", "Hospital": "centres"}
    wanted |= dict.fromkeys(dataset.metadata, "dataset.metadata")
    wanted |= {dataset.patient: "dataset.patient"} if dataset.patient else {}
    wanted |= {c: f"tasks.{name}" for name, entry in tasks.items() for c in entry.columns}
    rows: dict[str, Row] = {}
    issues: list[Issue] = []
    for table, folder in _tables(dataset).items():
        tabular = read_tabular_file(dataset.root / table)
        need_columns(tabular, wanted)
        issues += tabular.issues
        for row in tabular.rows:
            name = row.cells["ImageFile"]
            patient = image_id(name)
            if patient in rows:
                message = f"column ImageFile: {patient} is already in {rows[patient].where}"
                issues.append(Issue("error", row.where, f"{message}; keep one row per image"))
                continue
            file = image_file(dataset.root, folder, name)
            rows[patient] = replace(row, cells=row.cells | {"ImageFile": file, "patient": patient})
    joined = replace(tabular, path=dataset.root)
    return joined.changed(rows.values(), issues, "patient")


def _tables(dataset: AIforCOVID) -> Mapping[Path, Path]:
    """Return the image folder by spreadsheet; all paths are relative to the root."""
    existing = {t: folder for t, folder in RELEASES.items() if (dataset.root / t).is_file()}
    if not dataset.tables and not existing:
        names = ", ".join(str(table) for table in RELEASES)
        raise DataError(f"{dataset.root}: none of {names} exists; dataset.tables can name others")
    return dataset.tables or existing


def _check_hospital(cells: Cells) -> Cells:
    hospital = cells["Hospital"]
    if hospital not in HOSPITALS:
        raise ValueError(f"column Hospital: unknown hospital {hospital!r}; expected A to F")
    return {}
