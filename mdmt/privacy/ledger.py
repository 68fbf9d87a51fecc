"""The privacy ledger: a line for each training of a site with differential privacy.

There is one file per site, for all federations and runs. A line has the SHA-256 of the line before,
and is on the disk before its training starts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import Field, ValidationError

from mdmt.config.site import Policy, SiteConfig
from mdmt.errors import PolicyError, StateError
from mdmt.privacy.accounting import Mechanism, epsilon
from mdmt.strict import Positive, Strict

LEDGER = "dp.ledger.jsonl"
"""Name of the file in the state folder. Names of federations have no dot, so none is this name."""
_NOTHING = "0" * 64
"""What the first line names as the hash of the line before."""


class Entry(Strict):
    """One line of the ledger."""

    time: str
    order: str
    """Hash of the order, without the table of secure aggregation."""
    recipe: str
    """Hash of the recipe."""
    identity: str
    """Hash of everything that decides the result; see `mdmt.privacy.account`."""
    sample_rate: Annotated[float, Field(gt=0, le=1)]
    noise_multiplier: Positive
    steps: Annotated[int, Field(gt=0)]
    delta: float
    """δ of the policy at this time. A total is always computed with the current δ."""
    previous: str
    """SHA-256 of the line before."""

    @property
    def mechanism(self) -> Mechanism:
        """What was spent."""
        return Mechanism(self.sample_rate, self.noise_multiplier, self.steps)


class Ledger:
    """All privacy that a site has spent.

    Parameters
    ----------
    path : Path
        JSON lines. `mdmt.privacy.account` creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first.

        Raises
        ------
        StateError
            The file is missing, torn or changed.
        """
        with self._locked() as stream:
            return self._read(stream)[0]

    def charge(
        self, mechanism: Mechanism, policy: Policy, *, order: str, recipe: str, identity: str
    ) -> None:
        """Write that a training starts. A training with a known identity costs nothing.

        Raises
        ------
        PolicyError
            The total would exceed `policy.max_epsilon`; nothing is written.
        StateError
            The file is missing, torn or changed.
        OSError
            The disk is full or read-only.
        """
        with self._locked() as stream:
            entries, previous = self._read(stream)
            if identity in {entry.identity for entry in entries}:
                return
            _check_budget(policy, [*(entry.mechanism for entry in entries), mechanism])
            entry = Entry(
                time=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                order=order,
                recipe=recipe,
                identity=identity,
                **mechanism._asdict(),
                delta=policy.delta,
                previous=previous,
            )
            self._append(stream, entry.model_dump_json().encode() + b"\n")

    def _append(self, stream: BinaryIO, line: bytes) -> None:
        """Write a line to the disk: all of it, or nothing."""
        end = stream.seek(0, os.SEEK_END)
        try:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(end)
            raise

    @contextmanager
    def _locked(self) -> Iterator[BinaryIO]:
        """Open the file while no other process uses it."""
        try:
            with self.path.open("r+b", buffering=0) as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield stream
        except FileNotFoundError as error:
            raise StateError(
                f"{self.path} is missing: restore it from a backup; without it nobody knows how"
                " much privacy this site has spent"
            ) from error

    def _read(self, stream: BinaryIO) -> tuple[list[Entry], str]:
        """Return the entries, and the hash of the last line."""
        stream.seek(0)
        *lines, torn = stream.read().split(b"\n")
        if torn:
            raise StateError(
                f"{self.path}: line {len(lines) + 1} is not complete; its training did not start:"
                " delete this line"
            )
        entries, previous = [], _NOTHING
        for number, line in enumerate(lines, start=1):
            try:
                entry = Entry.model_validate_json(line)
            except ValidationError:
                entry = None
            if entry is None or entry.previous != previous:
                raise StateError(
                    f"{self.path}: line {number} is not what was written; restore the file from a"
                    " backup"
                )
            entries.append(entry)
            previous = hashlib.sha256(line).hexdigest()
        return entries, previous


def open_ledger(site: SiteConfig) -> Ledger:
    """Return the ledger of a site."""
    return Ledger(site.state_root / LEDGER)


def _check_budget(policy: Policy, mechanisms: Sequence[Mechanism]) -> None:
    """Refuse mechanisms whose total exceeds `max_epsilon`.

    Raises
    ------
    PolicyError
        The message has neither the total nor anything about other federations.
    """
    limit = policy.max_epsilon
    if limit is not None and not epsilon(mechanisms, policy.delta) <= limit:
        raise PolicyError(
            f"policy: max_epsilon allows {limit:g} at delta {policy.delta:g} over all federations,"
            " and this order would exceed it"
        )
