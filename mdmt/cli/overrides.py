"""The ``--set`` options of a run, which a resumed run uses again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mdmt.errors import BadInput
from mdmt.files import read_json, write_json

_FILE = "overrides.json"


def remembered(folder: Path) -> list[str]:
    """Return the options that a run was started with.

    Raises
    ------
    BadInput
        The file is damaged.
    """
    file = folder / _FILE
    if not file.is_file():
        return []
    try:
        found = read_json(file)["set"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: is damaged; delete it, and give --set again") from error
    return [str(option) for option in found]


def remember(folder: Path, options: Sequence[str]) -> None:
    """Write the options of a run to its folder."""
    if options:
        write_json(folder / _FILE, {"set": list(options)})
