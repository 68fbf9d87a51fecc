"""What a site keeps of a run with secure aggregation: its key, its statement, its answers.

An answer is on the disk before it is sent. Each round is answered once: a second update under the
same masks would show the difference of the two.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from mdmt.errors import DamagedError, PolicyError, StateError
from mdmt.files import atomic_path, write_text
from mdmt.messages import KeyStatement, TrainReport
from mdmt.strict import Strict

_KEPT = 2
"""Rounds whose answers are kept: the server can go back by one round."""


class Cohort(Strict):
    """The sites of a run, as one of them verified their statements."""

    digest: str
    """SHA-256 of all statements."""
    signers: dict[str, str]
    """Site → fingerprint of its key."""


class SecureStore:
    """The files of a site in one run.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key, self._statement = folder / "key", folder / "statement.json"
        self._cohort = folder / "cohort"

    def new_key(self) -> X25519PrivateKey:
        """Make the key of the run. It is written before anything depends on it."""
        key = X25519PrivateKey.generate()
        with atomic_path(self._key) as temporary:  # mode 0600
            temporary.write_bytes(key.private_bytes_raw())
        self._sync()
        return key

    def key(self) -> X25519PrivateKey:
        """Read the key of the run.

        Raises
        ------
        StateError
            There is none, or none any more.
        """
        try:
            return X25519PrivateKey.from_private_bytes(self._key.read_bytes())
        except (OSError, ValueError) as error:
            raise StateError(
                f"{self._key}: this site has no key of the run; if the run is over or its state was"
                " removed, start a new run"
            ) from error

    def end(self) -> None:
        """Delete the key: nobody can compute the masks of this run any more."""
        self._key.unlink(missing_ok=True)

    def statement(self) -> KeyStatement | None:
        """Read the statement of the site; None before the first one."""
        if not self._statement.exists():
            return None
        return KeyStatement.model_validate_json(self._statement.read_text(encoding="utf-8"))

    def write_statement(self, statement: KeyStatement) -> None:
        """Write the statement. The key is written before."""
        write_text(self._statement, statement.model_dump_json())
        self._sync()

    def cohort(self) -> Cohort | None:
        """Read what the site verified of the other sites; None before the first round."""
        if not self._cohort.exists():
            return None
        return Cohort.model_validate_json(self._cohort.read_text(encoding="utf-8"))

    def write_cohort(self, cohort: Cohort) -> None:
        """Write what the site verified of the other sites. It never changes in a run."""
        write_text(self._cohort, cohort.model_dump_json())
        self._sync()

    def answer(self, number: int, transcript: bytes) -> tuple[TrainReport, bytes] | None:
        """Return the answer of a round; None if the round was not answered.

        Raises
        ------
        PolicyError
            The round was answered with another transcript, or the answer is not kept any more.
        DamagedError
            The file differs from what was written.
        """
        path = self._path(number)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        header, _, blob = data.partition(b"\n")
        try:
            facts = json.loads(header)
            first, report, digest = facts["transcript"], facts["report"], facts["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path}: is damaged; start a new run") from error
        if first != transcript.hex():
            raise PolicyError(
                f"secure aggregation: round {number} of this run was answered for other arrays or"
                " another table; a round has one answer"
            )
        if not blob:
            raise PolicyError(f"secure aggregation: the answer of round {number} is not kept")
        if hashlib.sha256(blob).hexdigest() != digest:
            raise DamagedError(f"{path}: is damaged; start a new run")
        return TrainReport.model_validate(report), blob

    def keep(self, number: int, transcript: bytes, report: TrainReport, blob: bytes) -> None:
        """Write an answer to the disk. Of earlier rounds only the transcripts are kept.

        Raises
        ------
        OSError
            The disk is full or read-only. The answer must not be sent.
        """
        facts = {
            "transcript": transcript.hex(),
            "report": report.model_dump(mode="json"),
            "sha256": hashlib.sha256(blob).hexdigest(),
        }
        self._write(number, json.dumps(facts).encode(), blob)
        for path in self._folder.glob("round-*"):
            old = int(path.name.removeprefix("round-"))
            if old <= number - _KEPT:
                with path.open("rb") as stream:
                    header = stream.readline()
                    complete = bool(stream.read(1))
                if complete:
                    self._write(old, header.rstrip(b"\n"), b"")
        self._sync()

    def _write(self, number: int, header: bytes, blob: bytes) -> None:
        with atomic_path(self._path(number)) as temporary, temporary.open("wb") as stream:
            stream.writelines((header, b"\n", blob))

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:05d}"

    def _sync(self) -> None:
        """Write the entries of the folder to the disk: a power failure does not undo them."""
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
