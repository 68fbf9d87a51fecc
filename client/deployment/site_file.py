"""Add an approved recipe to ``site.yaml``. Everything else in the file stays as it was written.

PyYAML drops comments, so the new text is put into the old text, at the place that the parser gives.
The result is read again and compared before it replaces the file.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from mdmt.errors import BadInput
from mdmt.files import atomic_path


def add_recipe(file: Path, sha256: str) -> bool:
    """Add a hash to ``policy.recipes`` of a site's file.

    Parameters
    ----------
    file : Path
        A file that `mdmt.config.load_site` accepts.
    sha256 : str
        64 hex digits.

    Returns
    -------
    bool
        False if the file lists the hash already; it is then not written.

    Raises
    ------
    BadInput
        The text has a form that this function cannot edit. The file was not changed.
    """
    file = file.resolve()  # a link stays a link
    text = file.read_bytes().decode()  # not read_text, which would change the ends of lines
    before = yaml.safe_load(text)
    known = (before.get("policy") or {}).get("recipes") or []
    if sha256 in known:
        return False
    wanted = before | {"policy": (before.get("policy") or {}) | {"recipes": [*known, sha256]}}
    try:
        edited = _edited(text, sha256)
        done = yaml.safe_load(edited) == wanted
    except (yaml.YAMLError, LookupError):
        done = False
    if not done:
        raise BadInput(
            f"{file}: policy.recipes cannot be edited here, nothing was written: add the line"
            f" yourself: recipes: [{', '.join([*known, sha256])}]"
        )
    _replace(file, edited)
    return True


def _edited(text: str, sha256: str) -> str:
    """Return the text with one more item in ``policy.recipes``."""
    line = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    policy = _value(root, "policy")
    if policy is None:
        gap = "" if text.endswith("\n") else line
        return f"{text}{gap}{line}policy:{line}  recipes:{line}    - {sha256}{line}"
    if not isinstance(policy, yaml.MappingNode):
        return _put(text, policy, f"{{recipes: [{sha256}]}}")
    recipes = _value(policy, "recipes")
    if recipes is None:
        return _with_key(text, policy, sha256, line)
    if not isinstance(recipes, yaml.SequenceNode):
        return _put(text, recipes, f"[{sha256}]")
    last = recipes.value[-1].end_mark.index if recipes.value else recipes.start_mark.index + 1
    if recipes.flow_style:
        return _insert(text, last, f", {sha256}" if recipes.value else sha256)
    end = text.find("\n", last)  # a comment may follow the last item
    end = len(text) if end < 0 else end - (line == "\r\n")
    return _insert(text, end, f"{line}{' ' * recipes.start_mark.column}- {sha256}")


def _with_key(text: str, policy: yaml.MappingNode, sha256: str, line: str) -> str:
    """Put the key before the first key of a section that lacks it."""
    start = policy.start_mark
    if policy.flow_style:
        more = ", " if policy.value else ""
        return _insert(text, start.index + 1, f"recipes: [{sha256}]{more}")
    indent = line + " " * start.column
    return _insert(text, start.index, f"recipes:{indent}  - {sha256}{indent}")


def _value(mapping: Any, key: str) -> Any:
    """Return the node of a key; None if there is none."""
    return next((value for name, value in mapping.value if name.value == key), None)


def _put(text: str, scalar: Any, new: str) -> str:
    """Replace an empty value, such as null."""
    start, end = scalar.start_mark.index, scalar.end_mark.index
    gap = "" if text[start - 1 : start].isspace() else " "
    return text[:start] + gap + new + text[end:]


def _insert(text: str, place: int, new: str) -> str:
    return text[:place] + new + text[place:]


def _replace(file: Path, text: str) -> None:
    """Write the file atomically. It keeps its mode and its owner: root may run the command."""
    owner = file.stat()
    with atomic_path(file) as temporary:
        temporary.write_bytes(text.encode())
        shutil.copymode(file, temporary)
        if os.geteuid() != owner.st_uid:
            os.chown(temporary, owner.st_uid, owner.st_gid)
