"""The way down: what each site is sent of the backbone, and which one the sites then have.

Where the encoding is lossy, all sites in step hold the same arrays, which are not quite the
server's. A round sends the difference between the server's new arrays and those, so that what one
delta lost is in the next. A site that confirmed the last ones gets that delta, the same blob for
all; any other gets what the delta leads to, in full and exact. So every site of a round trains from
the same bits, whatever it had before.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ArrayRecord

from mdmt.config import WireConfig
from mdmt.deltas import decode, encode
from mdmt.messages import SiteCard
from mdmt.wire import Arrays, compress, fingerprint, pack
from server.records import blob_record, concerns, pack_record

__all__ = ["Downlink"]


class Downlink:
    """What sites hold, and how they get the next.

    Parameters
    ----------
    wire : WireConfig
    held : mapping of str to ndarray
        The arrays of the last round as sites decoded them; empty before the first.
    confirmed : mapping of str to str
        Site → fingerprint of the arrays that it last said it has.
    """

    def __init__(
        self,
        wire: WireConfig,
        held: Arrays | None = None,
        confirmed: Mapping[str, str] | None = None,
    ) -> None:
        self.wire = wire
        self.held: Arrays = held or {}
        self.confirmed = dict(confirmed or {})
        self._before: Arrays = {}
        self._travels: Arrays = {}
        self._fingerprints: dict[tuple[bool, frozenset[str]], str] = {}
        self._records: dict[tuple[bool, frozenset[str]], ArrayRecord] = {}

    def advance(self, arrays: Arrays) -> None:
        """Encode the arrays of a new round; `held` becomes what sites will decode."""
        lossy = self.wire.down != "float32" and self.held.keys() == arrays.keys()
        self._before, self._travels = (self.held if lossy else {}), {}
        self.held = arrays
        if lossy:
            self._travels, _ = encode(arrays, self._before, self.wire.down)
            self.held = decode(self._travels, self._before, self.wire.down)
        after = {k: v for (before, k), v in self._fingerprints.items() if not before}
        self._fingerprints = {(True, names): value for names, value in after.items()}
        self._records.clear()

    def record(self, card: SiteCard) -> tuple[ArrayRecord, str]:
        """What a site is sent, and the fingerprint of what it then has (empty if all is exact)."""
        names = frozenset(name for name in self.held if concerns(card, name))
        told = {} if self.wire.exact else {"fingerprint": self._fingerprint(names)}
        known = self.confirmed.get(card.name)
        delta = bool(self._travels) and known == self._fingerprint(names, True)
        key = delta, names
        if key not in self._records:
            if delta:
                wanted = {k: v for k, v in self._travels.items() if k.partition(":")[0] in names}
                blob = compress(pack(wanted, base=str(known), **told), self.wire.down)
                self._records[key] = blob_record(blob)
            else:
                wanted = {name: self.held[name] for name in names}
                self._records[key] = pack_record(wanted, **told)
        return self._records[key], told.get("fingerprint", "")

    def _fingerprint(self, names: frozenset[str], before: bool = False) -> str:
        key = before, names
        if key not in self._fingerprints:
            arrays = self._before if before else self.held
            self._fingerprints[key] = fingerprint({name: arrays[name] for name in names})
        return self._fingerprints[key]
