"""What left this site: a line per message, each with the hash of the line before it.

A removed, changed or moved line breaks the chain. Lines cut off the end break no chain, so the
number of lines and the hash of the last one are also kept in a second file, the head, elsewhere.
A line is on the disk before its message is sent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from pydantic import Field, ValidationError

from client.deployment.audit_entry import Entry, describe
from mdmt.config import SiteConfig
from mdmt.deployment.kits import SiteKit
from mdmt.errors import StateError
from mdmt.files import read_json, write_json
from mdmt.strict import Strict

if TYPE_CHECKING:
    from flwr.app import Message

__all__ = ["AuditLog", "Problem", "open_audit_log"]

_NOTHING = "0" * 64
"""What the first line names as the hash of the line before it."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """Where a log is not what was written; `line` counts from 1, 0 is the head."""

    line: int
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


class _Head(Strict):
    """How far the log was known to go when the head was last written."""

    lines: Annotated[int, Field(ge=0)] = 0
    hash: str = _NOTHING


def open_audit_log(kit: SiteKit, site: SiteConfig) -> AuditLog:
    """The log in the site's state folder, its head in the kit."""
    return AuditLog(site.state_root / "audit.jsonl", kit.audit_head)


class AuditLog:
    """The messages that left a site.

    Parameters
    ----------
    path : Path
        JSON lines; made with the first message.
    head : Path
        JSON; best on another disk, or under another user.
    """

    def __init__(self, path: Path, head: Path) -> None:
        self.path = path
        self.head = head

    def record(self, message: Message, asked: Message | None = None) -> str:
        """Append a line for `message`, which must not be sent before this returns.

        Parameters
        ----------
        message : Message
            A reply. No array is decoded.
        asked : Message, optional
            What it replies to: it names federation, run and round, which an error does not.

        Returns
        -------
        str
            SHA-256 of the line, which is where the log ends now.

        Raises
        ------
        StateError
            The log does not end where the head says.
        OSError
            The disk is full or read-only.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            head, recovered = self._recover(stream)
            entry = describe(message, asked, previous=head.hash, **recovered)
            line = json.dumps(entry.model_dump(exclude_defaults=True), allow_nan=False).encode()
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            if not head.lines:
                _sync_folder(self.path.parent)
            head = _after(head, line)
            self._write_head(head)
        return head.hash

    def verify(self) -> list[Problem]:
        """Every place where the log is not what was written; reads only.

        A last line without its end, or one that the head does not know yet, is what a crash leaves:
        no problem, and put right with the next message.
        """
        try:
            head = self._read_head()  # first: a message recorded meanwhile is then one line more
        except StateError as error:
            return [Problem(0, str(error))]
        lines, torn = self._read()
        problems, previous = [], _NOTHING
        for number, line in enumerate(lines, start=1):
            entry = _parse(line)
            if entry is None:
                problems.append(Problem(number, "was changed: it is no entry of this log any more"))
            elif entry.previous != previous:
                problems.append(
                    Problem(number, "does not follow the line before: that was changed, or removed")
                )
            previous = _hash(line)
        return problems + self._compare(lines, torn, head)

    def entries(self) -> list[Entry]:
        """The lines that can be read, oldest first."""
        return [entry for line in self._read()[0] if (entry := _parse(line)) is not None]

    def last_hash(self) -> str:
        """SHA-256 of the last line, to note down elsewhere."""
        lines, _ = self._read()
        return _hash(lines[-1]) if lines else _NOTHING

    def _compare(self, lines: list[bytes], torn: bytes, head: _Head) -> list[Problem]:
        """Compare the log's end with the head."""
        if len(lines) < head.lines:
            missing = head.lines - len(lines)
            return [Problem(len(lines) + 1, f"{missing} of {head.lines} lines are missing")]
        if len(lines) > head.lines + (not torn):  # a crash leaves one of the two
            return [
                Problem(head.lines + 1, f"{self.head} knows neither this line nor what follows")
            ]
        if head.lines and _hash(lines[head.lines - 1]) != head.hash:
            return [Problem(head.lines, f"is not the line that {self.head} names")]
        return []

    def _recover(self, stream: BinaryIO) -> tuple[_Head, dict[str, str]]:
        """Put right what a crash left at the end; where to go on, and what was done."""
        head = self._read_head()
        stream.seek(0)
        *lines, torn = stream.read().split(b"\n")
        problems = self._compare(lines, torn, head)
        unknown = lines[head.lines :]
        if not problems and unknown:
            entry = _parse(unknown[0])
            if entry is None or entry.previous != head.hash:
                problems = [Problem(len(lines), "does not follow the line before")]
        if problems:
            raise StateError(f"{self.path}: {problems[0]}: {_REMEDY}")
        if unknown:
            head = _after(head, unknown[0])
            self._write_head(head)
            story = "a crash came between the line before and its message, which may not be sent"
        elif torn:
            stream.truncate(stream.tell() - len(torn))
            story = "a crash left half a line, which was cut off; its message was not sent"
        else:
            return head, {}
        log.warning("%s: %s", self.path, story)
        return head, {"recovered": story}

    def _read(self) -> tuple[list[bytes], bytes]:
        """Complete lines, and what stands after the last."""
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

    def _write_head(self, head: _Head) -> None:
        write_json(self.head, head.model_dump())
        _sync_folder(self.head.parent)


_REMEDY = "see what `mdmt site audit` finds; to begin a new log, move both files away and keep them"


def _parse(line: bytes) -> Entry | None:
    try:
        return Entry.model_validate_json(line)
    except ValidationError:
        return None


def _after(head: _Head, line: bytes) -> _Head:
    return _Head(lines=head.lines + 1, hash=_hash(line))


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Put a file's new name on the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
