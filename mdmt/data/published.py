"""Code that the readers of the paper's two datasets share: image files, split files, rows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mdmt.config.datasets import AIforCOVID, Brixia, Table
from mdmt.config.site import SiteConfig
from mdmt.data.manifest import Manifest
from mdmt.data.split_files import image_id, read_split_files
from mdmt.data.splits import absent_classes
from mdmt.data.table import read_rows
from mdmt.data.tabular import Issue, TabularFile

Cells = dict[str, str]
"""The text of a row by column."""


@dataclass(frozen=True)
class Layout:
    """The columns of a published dataset.

    Attributes
    ----------
    image, patient, centre : str
        Columns of the tabular file.
    label : str
        Column of the tabular file that the split files repeat.
    label_in_split_files : str
        The name of this column in the split files.
    meaning : callable
        Meaning of a label cell. Cells with an equal meaning agree.
    added : tuple of str
        Columns that `parse` adds.
    parse : callable
        Returns cells to add to a row or to replace. A ValueError becomes an issue of the row.
    """

    image: str
    patient: str
    centre: str
    label: str
    label_in_split_files: str
    meaning: Callable[[str], str]
    added: tuple[str, ...]
    parse: Callable[[Cells], Cells]


def image_file(root: Path, folder: Path, name: str) -> str:
    """Return the file of the image `name` in `folder`, relative to `root`.

    A name without a suffix is a DICOM file, or a PNG file if there is no such DICOM file. If `name`
    is empty, the result is empty.
    """
    if not name:
        return ""
    if image_id(name) != name:
        return str(folder / name)
    dicom, png = (folder / f"{name}{suffix}" for suffix in (".dcm", ".png"))
    return str(png if (root / png).is_file() and not (root / dicom).is_file() else dicom)


def read_published(
    tabular: TabularFile, site: SiteConfig, seed: int, layout: Layout, *, split: bool = False
) -> tuple[Manifest, list[Issue]]:
    """Parse the rows of a published dataset, and read them with the table reader.

    Parameters
    ----------
    tabular : TabularFile
    site : SiteConfig
    seed : int
    layout : Layout
    split : bool
        True if the tabular file has the column ``split``. The split files add it.

    Returns
    -------
    Manifest
    list of Issue
        With split files, also the classes that a split lacks.

    Raises
    ------
    DataError
        The split files cannot be read.
    """
    dataset = site.dataset
    assert isinstance(dataset, AIforCOVID | Brixia)
    folder = None if dataset.split_files is None else dataset.root / dataset.split_files
    if folder is not None:
        tabular = _add_splits(tabular, folder, layout)
    tabular = _parsed(tabular, layout)
    table = Table(
        root=dataset.root,
        image=layout.image,
        patient=layout.patient,
        split="split" if split or folder is not None else dataset.split,
        validation=dataset.split or "stratified",
        centre=layout.centre,
        metadata=dataset.metadata,
        val_fraction=dataset.val_fraction,
        test_fraction=dataset.test_fraction,
        on_bad_image=dataset.on_bad_image,
    )
    manifest, issues = read_rows(tabular, site, table, seed)
    if folder is not None and not any(issue.severity == "error" for issue in issues):
        for task, entry in site.tasks.items():
            problems = absent_classes(manifest, task, entry.space)
            issues += [Issue("error", str(folder), f"task {task}: {p}") for p in problems]
    return manifest, issues


def _parsed(tabular: TabularFile, layout: Layout) -> TabularFile:
    """Parse every row."""
    rows, issues = [], list(tabular.issues)
    for row in tabular.rows:
        try:
            rows.append(replace(row, cells=row.cells | layout.parse(row.cells)))
        except ValueError as error:
            issues.append(Issue("error", row.where, str(error)))
    return tabular.changed(rows, issues, *layout.added)


def _add_splits(tabular: TabularFile, folder: Path, layout: Layout) -> TabularFile:
    """Add the column ``split`` from a folder of split files.

    Images that are in no split file are dropped with a warning. Images that are only in a split
    file, and labels that differ, are errors.
    """
    assignments = read_split_files(folder)
    rows, issues, unknown = [], list(tabular.issues), dict(assignments)
    for row in tabular.rows:
        name = image_id(row.cells[layout.image])
        if name not in assignments:
            continue
        unknown.pop(name, None)
        line, own = assignments[name].row, row.cells[layout.label]
        other = line.cells.get(layout.label_in_split_files, own)
        if layout.meaning(other) != layout.meaning(own):
            message = f"{layout.label_in_split_files} is {other}, but {layout.label} of {row.where}"
            issues.append(Issue("error", line.where, f"{message} is {own}; correct one of them"))
        rows.append(replace(row, cells=row.cells | {"split": assignments[name].split}))
    if dropped := len(tabular.rows) - len(rows):
        message = f"{dropped} of {len(tabular.rows)} images are in no split file and are dropped"
        issues.append(Issue("warning", str(folder), message))
    if unknown:
        first, assignment = next(iter(unknown.items()))
        message = f"{len(unknown)} images are in no table, the first is {first}"
        message += f" ({assignment.row.where}); is a release missing?"
        issues.append(Issue("error", str(folder), message))
    return tabular.changed(rows, issues, "split")
