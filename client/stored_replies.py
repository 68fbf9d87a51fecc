"""The last replies of a deployed site. An identical order gets the stored reply, bit for bit.

A reply is on the disk before it is sent. So a server that lost a reply can ask again: this costs no
training and no budget, and shows nothing new. Errors and site cards are not stored: after a
correction, the next answer should differ.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from mdmt.config import SiteConfig
from mdmt.errors import DamagedError
from mdmt.files import atomic_path, sync_folder

_KEPT = {"train": 1, "evaluate": 16, "evaluate.reference": 1}
"""By type of message, the replies that are kept, over all runs. Only updates are large; a final
test has an order for the last round and for the best round of each task."""


@dataclass(frozen=True)
class Reply:
    """What a site sends: a report as JSON, and for a training order its encoded arrays."""

    report: str
    blob: bytes | None = None


class StoredReplies:
    """The stored replies of a site, one file each.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, kind: str, order: str) -> Reply | None:
        """Return the reply to an order, or None if it was not answered or is not kept any more.

        Parameters
        ----------
        kind : str
            Type of the message.
        order : str
            Its `mdmt.messages.order_hash`.

        Raises
        ------
        DamagedError
            The file differs from what was written.
        """
        path = self._path(kind, order)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        digest, _, content = data.partition(b"\n")
        if digest.decode("ascii", "replace") != hashlib.sha256(content).hexdigest():
            raise DamagedError(f"{path}: is damaged; remove it, and the order will run again")
        text, _, blob = content.partition(b"\n")
        facts = json.loads(text)
        return Reply(facts["report"], blob if facts["arrays"] else None)

    def keep(self, kind: str, order: str, reply: Reply) -> None:
        """Write a reply to the disk, and delete the oldest replies of this kind.

        Raises
        ------
        OSError
            The disk is full or read-only. The reply must not be sent.
        """
        if kind not in _KEPT:
            return
        facts = json.dumps({"report": reply.report, "arrays": reply.blob is not None}).encode()
        content = (facts, b"\n", reply.blob or b"")
        digest = hashlib.sha256()
        for part in content:
            digest.update(part)
        path = self._path(kind, order)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            stream.write(digest.hexdigest().encode() + b"\n")
            stream.writelines(content)
        sync_folder(self.folder)
        stored = self.folder.glob(f"{kind}-*.reply")
        newest_first = sorted(stored, key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for old in [file for file in newest_first if file != path][_KEPT[kind] - 1 :]:
            old.unlink()

    def _path(self, kind: str, order: str) -> Path:
        return self.folder / f"{kind}-{order}.reply"


def open_replies(site: SiteConfig) -> StoredReplies:
    """Return the stored replies in the site's state folder."""
    return StoredReplies(site.state_root / "replies")
