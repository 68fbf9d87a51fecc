"""Atomic writes: a reader sees the old file or the new one, never a part of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mdmt.errors import DiskFullError

if TYPE_CHECKING:
    from jinja2 import Environment

_RUST_FULL = f"(os error {errno.ENOSPC})"


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; rename it over `target` when the block succeeds.

    Parameters
    ----------
    target : Path
        Final place; its folder is created if missing.

    Yields
    ------
    Path
        Where to write. It is removed if the block raises.

    Raises
    ------
    DiskFullError
    """
    with naming_full_disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        os.close(descriptor)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming_full_disk(target: Path) -> Iterator[None]:
    """Turn the error of a full disk, which names no file, into one that names `target`.

    Raises
    ------
    DiskFullError
    """
    try:
        yield
    except Exception as error:
        known = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        # safetensors is written in Rust and tells the number in its text.
        if isinstance(error, DiskFullError) or not (known or _RUST_FULL in str(error)):
            raise
        raise DiskFullError(
            f"{target}: No space left on device: the disk is full; free space there, then try again"
        ) from error


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk: a renamed file then survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` atomically, as UTF-8."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` to `target` atomically, as indented JSON without ``NaN``."""
    write_text(target, json.dumps(value, indent=1, allow_nan=False) + "\n")


def limit_log(log: Path, largest: int = 10**7) -> bool:
    """Move the lines of a log that is too large to ``LOG.1``, and continue with an empty log.

    The file is copied and emptied, because a running process may have opened it. On a full disk
    the old lines are lost, which frees their space.

    Parameters
    ----------
    log : Path
        It is written in append mode. It may be missing.
    largest : int
        Bytes.

    Returns
    -------
    bool
        True if the log was emptied.
    """
    try:
        if log.stat().st_size <= largest:
            return False
    except FileNotFoundError:
        return False
    with suppress(OSError):
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)
    return True


def read_json(source: Path) -> Any:
    """Read a JSON file."""
    return json.loads(source.read_text(encoding="utf-8"))


def yaml_line(value: Any) -> str:
    """Write `value` as YAML on one line, quoted where needed."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def render(package: str, template: str, /, *, html: bool = False, **facts: Any) -> str:
    """Fill in a Jinja template from the folder ``templates`` of a package.

    A fact that is missing is an error. With `html` all text is escaped; YAML, TOML, shell and
    Markdown are not HTML.
    """
    return _environment(package, html).get_template(template).render(facts)


@cache
def _environment(package: str, html: bool) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=html,
    )
    environment.filters["yaml"] = yaml_line
    return environment
