"""What the readers of the paper's two datasets share: image folders, split files, bad rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mdmt.config.datasets import AIforCOVID, Brixia, Table
from mdmt.config.site import SiteConfig
from mdmt.data.manifest import Manifest
from mdmt.data.split_files import image_id, read_split_files
from mdmt.data.splits import absent_classes
from mdmt.data.table import read_rows
from mdmt.data.tabular import Finding, Sheet

__all__ = ["Cells", "divided", "image_file", "read_published", "table_of"]

Cells = dict[str, str]
"""A row's text by column."""


def image_file(root: Path, folder: Path, name: str) -> str:
    """File of the image `name` in a folder, relative to `root`; empty if `name` is.

    A name without a suffix is that of a DICOM file, or of a PNG file where there is no DICOM file.
    """
    if not name:
        return ""
    if image_id(name) != name:
        return str(folder / name)
    dicom, png = (folder / f"{name}{suffix}" for suffix in (".dcm", ".png"))
    return str(png if (root / png).is_file() and not (root / dicom).is_file() else dicom)


def divided(
    sheet: Sheet, folder: Path, image: str, same: tuple[str, str], reading: Callable[[str], str]
) -> Sheet:
    """Add the column ``split`` from a folder of split files.

    Images that they do not name are left out. Findings say how many; and where the files name an
    image that the sheet lacks, or contradict it.

    Parameters
    ----------
    sheet : Sheet
    folder : Path
    image : str
        The sheet's column of image names.
    same : tuple of str
        A column of the split files and the sheet's column that it repeats.
    reading : callable
        What cells of the two mean; equal meanings agree.

    Raises
    ------
    DataError
        The split files cannot be read.
    """
    assignments = read_split_files(folder)
    rows, findings, named = [], list(sheet.findings), set()
    theirs, ours = same
    for row in sheet.rows:
        name = image_id(row.cells[image])
        if name not in assignments:
            continue
        named.add(name)
        assignment = assignments[name]
        line, own = assignment.row, row.cells[ours]
        said = line.cells.get(theirs, own)
        if reading(said) != reading(own):
            message = f"{theirs} {said}, but {ours} of {row.where} is {own}: correct one of them"
            findings.append(Finding("error", line.where, message))
        rows.append(replace(row, cells=row.cells | {"split": assignment.split}))
    if left := len(sheet.rows) - len(rows):
        message = f"{left} of {len(sheet.rows)} images are in no split file and left out"
        findings.append(Finding("warning", str(folder), message))
    unknown = [name for name in assignments if name not in named]
    if unknown:
        first = f"{unknown[0]} ({assignments[unknown[0]].row.where})"
        message = f"{len(unknown)} images are in no table, the first {first}"
        findings.append(Finding("error", str(folder), f"{message}: is a release missing?"))
    columns = dict.fromkeys((*sheet.columns, "split"))
    return replace(sheet, columns=tuple(columns), rows=tuple(rows), findings=tuple(findings))


def table_of(
    dataset: AIforCOVID | Brixia, *, image: str, patient: str, centre: str, split: bool
) -> Table:
    """Describe a sheet with these columns, and ``split`` if it says so, to the table reader."""
    return Table(
        root=dataset.root,
        image=image,
        patient=patient,
        split="split" if split else None,
        centre=centre,
        metadata=dataset.metadata,
        val_fraction=dataset.val_fraction,
        test_fraction=dataset.test_fraction,
        on_bad_image=dataset.on_bad_image,
    )


def read_published(
    sheet: Sheet,
    site: SiteConfig,
    table: Table,
    seed: int,
    adds: Sequence[str],
    parse: Callable[[Cells], Cells],
) -> tuple[Manifest, list[Finding]]:
    """Read a sheet whose rows must be understood first.

    Parameters
    ----------
    sheet : Sheet
    site : SiteConfig
    table : Table
        What the columns mean, those that `parse` gives included.
    seed : int
    adds : sequence of str
        The columns that `parse` gives.
    parse : callable
        Cells of a row: what to add to them or put in their place. A ValueError is a finding.

    Returns
    -------
    Manifest
    list of Finding
        With split files, also the classes that a split lacks.
    """
    rows, findings = [], list(sheet.findings)
    for row in sheet.rows:
        try:
            parsed = parse(row.cells)
        except ValueError as error:
            findings.append(Finding("error", row.where, str(error)))
        else:
            rows.append(replace(row, cells=row.cells | parsed))
    columns = tuple(dict.fromkeys((*sheet.columns, *adds)))
    sheet = Sheet(sheet.path, columns, tuple(rows), tuple(findings))
    manifest, findings = read_rows(sheet, site, table, seed)
    assert isinstance(site.dataset, AIforCOVID | Brixia)
    folder = site.dataset.split_files
    if folder is not None and not any(finding.severity == "error" for finding in findings):
        for task, entry in site.tasks.items():
            problems = absent_classes(manifest, task, entry.space)
            findings += [Finding("error", str(folder), f"task {task}: {p}") for p in problems]
    return manifest, findings
