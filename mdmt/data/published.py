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
from mdmt.data.tabular import Issue, TabularFile

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
    tabular: TabularFile,
    folder: Path,
    image: str,
    same: tuple[str, str],
    reading: Callable[[str], str],
) -> TabularFile:
    """Add the column ``split`` from a folder of split files.

    Images that they do not name are left out. Issues say how many; and where the files name an
    image that the tabular file lacks, or contradict it.

    Parameters
    ----------
    tabular : TabularFile
    folder : Path
    image : str
        The tabular file's column of image names.
    same : tuple of str
        A column of the split files and the tabular file's column that it repeats.
    reading : callable
        What cells of the two mean; equal meanings agree.

    Raises
    ------
    DataError
        The split files cannot be read.
    """
    assignments = read_split_files(folder)
    rows, issues, named = [], list(tabular.issues), set()
    theirs, ours = same
    for row in tabular.rows:
        name = image_id(row.cells[image])
        if name not in assignments:
            continue
        named.add(name)
        assignment = assignments[name]
        line, own = assignment.row, row.cells[ours]
        said = line.cells.get(theirs, own)
        if reading(said) != reading(own):
            message = f"{theirs} {said}, but {ours} of {row.where} is {own}: correct one of them"
            issues.append(Issue("error", line.where, message))
        rows.append(replace(row, cells=row.cells | {"split": assignment.split}))
    if left := len(tabular.rows) - len(rows):
        message = f"{left} of {len(tabular.rows)} images are in no split file and left out"
        issues.append(Issue("warning", str(folder), message))
    unknown = [name for name in assignments if name not in named]
    if unknown:
        first = f"{unknown[0]} ({assignments[unknown[0]].row.where})"
        message = f"{len(unknown)} images are in no table, the first {first}"
        issues.append(Issue("error", str(folder), f"{message}: is a release missing?"))
    columns = dict.fromkeys((*tabular.columns, "split"))
    return replace(tabular, columns=tuple(columns), rows=tuple(rows), issues=tuple(issues))


def table_of(
    dataset: AIforCOVID | Brixia, *, image: str, patient: str, centre: str, split: bool
) -> Table:
    """Return the dataset section that tells the table reader what these columns are."""
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
    tabular: TabularFile,
    site: SiteConfig,
    table: Table,
    seed: int,
    adds: Sequence[str],
    parse: Callable[[Cells], Cells],
) -> tuple[Manifest, list[Issue]]:
    """Read a tabular file whose rows must be understood first.

    Parameters
    ----------
    tabular : TabularFile
    site : SiteConfig
    table : Table
        What the columns mean, those that `parse` gives included.
    seed : int
    adds : sequence of str
        The columns that `parse` gives.
    parse : callable
        Cells of a row: what to add to them or put in their place. A ValueError is an issue.

    Returns
    -------
    Manifest
    list of Issue
        With split files, also the classes that a split lacks.
    """
    rows, issues = [], list(tabular.issues)
    for row in tabular.rows:
        try:
            parsed = parse(row.cells)
        except ValueError as error:
            issues.append(Issue("error", row.where, str(error)))
        else:
            rows.append(replace(row, cells=row.cells | parsed))
    columns = tuple(dict.fromkeys((*tabular.columns, *adds)))
    tabular = TabularFile(tabular.path, columns, tuple(rows), tuple(issues))
    manifest, issues = read_rows(tabular, site, table, seed)
    assert isinstance(site.dataset, AIforCOVID | Brixia)
    folder = site.dataset.split_files
    if folder is not None and not any(issue.severity == "error" for issue in issues):
        for task, entry in site.tasks.items():
            problems = absent_classes(manifest, task, entry.space)
            issues += [Issue("error", str(folder), f"task {task}: {p}") for p in problems]
    return manifest, issues
