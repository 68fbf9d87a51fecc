"""The reader of AIforCOVID: outcomes of patients at six Italian hospitals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mdmt.config.datasets import AIforCOVID
from mdmt.config.site import SiteConfig, SiteTask
from mdmt.data.manifest import Manifest
from mdmt.data.published import Cells, divided, image_file, read_published, table_of
from mdmt.data.split_files import image_id
from mdmt.data.tabular import Issue, Row, TabularFile, need_columns, read_tabular_file
from mdmt.errors import DataError

__all__ = ["HOSPITALS", "RELEASES", "read_aiforcovid"]

RELEASES = {
    Path("AIforCOVID.xlsx"): Path("imgs"),
    Path("AIforCOVID_r2.xlsx"): Path("imgs_r2"),
    Path("AIforCOVID_r3.xlsx"): Path("imgs_r3"),
}
"""Spreadsheets of the three releases and the folders of their images."""
HOSPITALS = tuple("ABCDEF")
OUTCOME = "Prognosis"


def read_aiforcovid(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read AIforCOVID's spreadsheets, one after the other.

    The centre of an image is its ``Hospital``. An id (``P_7``, ``P_1_7``, ``P_2_7``, ``P_3_7``) is
    that of a patient with one image, and ids that differ in anything are different patients,
    unless `dataset.patient` names a column that says otherwise. Tasks without columns of their own
    read ``Prognosis``. Splits are those of the split files, or dealt by patient.

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
        No spreadsheet, or columns missing from one.
    """
    dataset = site.dataset
    assert isinstance(dataset, AIforCOVID)
    tasks = {
        name: entry if entry.columns else entry.model_copy(update={"columns": (OUTCOME,)})
        for name, entry in site.tasks.items()
    }
    site = site.model_copy(update={"tasks": tasks})
    tabular = _joined(dataset, tasks)
    if dataset.split_files is not None:
        folder = dataset.root / dataset.split_files
        tabular = divided(tabular, folder, "ImageFile", ("label", OUTCOME), str)
    table = table_of(
        dataset,
        image="ImageFile",
        patient=dataset.patient or "patient",
        centre="Hospital",
        split=dataset.split_files is not None,
    )
    return read_published(tabular, site, table, seed, (), _check_hospital)


def _joined(dataset: AIforCOVID, tasks: Mapping[str, SiteTask]) -> TabularFile:
    """The rows of all spreadsheets, with image files and, as ``patient``, ids."""
    wanted = {"ImageFile": "image names", "Hospital": "centres"}
    wanted |= dict.fromkeys(dataset.metadata, "dataset.metadata")
    wanted |= {dataset.patient: "dataset.patient"} if dataset.patient else {}
    wanted |= {c: f"tasks.{name}" for name, entry in tasks.items() for c in entry.columns}
    rows: dict[str, Row] = {}
    issues: list[Issue] = []
    for path, folder in _tables(dataset).items():
        tabular = read_tabular_file(path)
        need_columns(tabular, wanted)
        issues += tabular.issues
        for row in tabular.rows:
            name = row.cells["ImageFile"]
            patient = image_id(name)
            if patient in rows:
                message = f"column ImageFile: {patient} stands in {rows[patient].where} already"
                issues.append(Issue("error", row.where, f"{message}: keep one row per image"))
                continue
            file = image_file(dataset.root, folder, name)
            rows[patient] = replace(row, cells=row.cells | {"ImageFile": file, "patient": patient})
    columns = tuple(dict.fromkeys((*tabular.columns, "patient")))
    return TabularFile(dataset.root, columns, tuple(rows.values()), tuple(issues))


def _tables(dataset: AIforCOVID) -> dict[Path, Path]:
    """Spreadsheets, and the folders of their images relative to the root."""
    if dataset.tables:
        return {dataset.root / table: folder for table, folder in dataset.tables.items()}
    there = {
        dataset.root / table: folder
        for table, folder in RELEASES.items()
        if (dataset.root / table).is_file()
    }
    if not there:
        names = ", ".join(str(table) for table in RELEASES)
        raise DataError(f"{dataset.root}: none of {names}; dataset.tables may name others")
    return there


def _check_hospital(cells: Cells) -> Cells:
    hospital = cells["Hospital"]
    if hospital not in HOSPITALS:
        raise ValueError(f"column Hospital: unknown hospital {hospital!r}: expected A to F")
    return {}
