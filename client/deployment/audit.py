"""The audit log: a line for each message that left this site, with the hash of the line before.

A removed, changed or moved line breaks the chain. Lines that are cut off the end do not. So a
second file elsewhere, the head, holds the number of lines and the hash of the last one. A line is
on the disk before its message is sent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, NamedTuple

from pydantic import Field, ValidationError

from client.deployment.audit_entry import Entry, asked_recipe, describe
from client.deployment.recipes import RecipeStore
from mdmt.audit_head import KEY, RECORD, with_head
from mdmt.config import SiteConfig
from mdmt.deployment.kits import SiteKit
from mdmt.errors import StateError
from mdmt.files import naming_full_disk, read_json, write_json
from mdmt.strict import Strict

if TYPE_CHECKING:
    from flwr.app import Message

_NOTHING = "0" * 64
"""What the first line names as the hash of the line before it."""
log = logging.getLogger(__name__)


class Problem(NamedTuple):
    """A place where the log differs from what was written; `line` counts from 1, 0 is the head."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class _Head(Strict):
    """The end of the log when the head was last written."""

    lines: Annotated[int, Field(ge=0)] = 0
    hash: str = _NOTHING


def open_audit_log(kit: SiteKit, site: SiteConfig) -> AuditLog:
    """The log in the site's state folder, its head in the kit."""
    return AuditLog(site.state_root / "audit.jsonl", kit.audit_head)


def add_head(reply: Message, head: str) -> None:
    """Put the hash of its line into a recorded reply; see `mdmt.audit_head`."""
    from flwr.app import ConfigRecord, Error

    if reply.has_error():
        reply.error = Error(reply.error.code, with_head(str(reply.error.reason), head))
    else:
        reply.content[RECORD] = ConfigRecord({KEY: head})


class AuditLog:
    """The messages that left a site.

    Parameters
    ----------
    path : Path
        JSON lines; created with the first message. The recipes that lines name are beside it.
    head : Path
        JSON; best on another disk, or owned by another user.
    """

    def __init__(self, path: Path, head: Path) -> None:
        self.path, self.head = path, head
        self.recipes = RecipeStore(path.parent / "recipes")

    def record(self, message: Message, asked: Message | None = None) -> str:
        """Append a line for `message`, which must not be sent before this returns.

        Parameters
        ----------
        message : Message
            A reply. No array is decoded.
        asked : Message, optional
            The server's message. The line says what it asked for.

        Returns
        -------
        str
            SHA-256 of the line, which is now the last one.

        Raises
        ------
        StateError
            The log does not end as the head says.
        OSError
            The disk is full or read-only.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if (recipe := asked_recipe(asked)) is not None:
            self.recipes.note(recipe)
        with naming_full_disk(self.path), self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            head, recovered = self._recover(stream)
            entry = describe(message, asked, previous=head.hash, **recovered)
            line = json.dumps(entry.model_dump(exclude_defaults=True), allow_nan=False).encode()
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            if not head.lines:
                _sync_folder(self.path.parent)
            return self._write_head(head.lines + 1, line).hash

    def verify(self) -> list[Problem]:
        """List every place where the log differs from what was written; only read.

        A crash leaves a last line without its end, or one that the head does not know yet. Neither
        is a problem: the next message repairs it.
        """
        try:
            head = self._read_head()  # first: a message recorded meanwhile is one line more
        except StateError as error:
            return [Problem(0, str(error))]
        lines, torn = self._read()
        problems, previous = [], _NOTHING
        for number, line in enumerate(lines, start=1):
            entry = _parse(line)
            if entry is None:
                problems.append(Problem(number, "was changed: it is not an entry any more"))
            elif entry.previous != previous:
                problems.append(Problem(number, f"{_BREAK}: that was changed, or removed"))
            previous = _hash(line)
        return problems + self._compare(lines, torn, head)

    def entries(self) -> list[Entry]:
        """The lines that can be read, oldest first."""
        return [entry for line in self._read()[0] if (entry := _parse(line)) is not None]

    def hashes(self) -> list[str]:
        """SHA-256 of every line. The last one is to be noted elsewhere."""
        return [_hash(line) for line in self._read()[0]]

    def _compare(self, lines: list[bytes], torn: bytes, head: _Head) -> list[Problem]:
        """Compare the log's end with the head."""
        if len(lines) < head.lines:
            missing = head.lines - len(lines)
            return [Problem(len(lines) + 1, f"{missing} of {head.lines} lines are missing")]
        if len(lines) > head.lines + (not torn):  # a crash leaves one of the two
            text = f"{self.head} knows neither this line nor the following ones"
            return [Problem(head.lines + 1, text)]
        if head.lines and _hash(lines[head.lines - 1]) != head.hash:
            return [Problem(head.lines, f"is not the line that {self.head} names")]
        return []

    def _recover(self, stream: BinaryIO) -> tuple[_Head, dict[str, str]]:
        """Repair what a crash left at the end; return the head and what was done."""
        head = self._read_head()
        stream.seek(0)
        *lines, torn = stream.read().split(b"\n")
        problems = self._compare(lines, torn, head)
        unknown = lines[head.lines :]
        if not problems and unknown:
            entry = _parse(unknown[0])
            if entry is None or entry.previous != head.hash:
                problems = [Problem(len(lines), _BREAK)]
        if problems:
            raise StateError(f"{self.path}: {problems[0]}: {_REMEDY}")
        if unknown:
            head = self._write_head(len(lines), unknown[0])
            story = "a crash came after the line before; its message may not be sent"
        elif torn:
            stream.truncate(stream.tell() - len(torn))
            story = "a crash left half a line, which was removed; its message was not sent"
        else:
            return head, {}
        log.warning("%s: %s", self.path, story)
        return head, {"recovered": story}

    def _read(self) -> tuple[list[bytes], bytes]:
        """Complete lines, and what follows the last one."""
        try:
            with self.path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)
                *lines, torn = stream.read().split(b"\n")
        except FileNotFoundError:
            return [], b""
        return lines, torn

    def _read_head(self) -> _Head:
        try:
            return _Head.model_validate(read_json(self.head))
        except FileNotFoundError:
            return _Head()
        except ValueError as error:
            raise StateError(f"{self.head} is damaged: {_REMEDY}") from error

    def _write_head(self, lines: int, last: bytes) -> _Head:
        head = _Head(lines=lines, hash=_hash(last))
        write_json(self.head, head.model_dump())
        _sync_folder(self.head.parent)
        return head


_BREAK = "does not follow the line before"
_REMEDY = "run `mdmt site audit`; to begin a new log, move both files away and keep them"


def _parse(line: bytes) -> Entry | None:
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Write the folder's entry of a new file to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
