"""Pairwise masks (Bonawitz et al. 2017, without recovery of sites that drop out).

Two sites share a secret, from which both compute the same random numbers for each array of a round.
The site whose name is first adds them, the other subtracts them, so they cancel in the sum of all
sites. The server sees uniform numbers from each site.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

PIECE = 2**14
"""Numbers that get all their masks before the next ones do: they fit into the processor's cache."""
_NONCE = bytes(16)
"""Counter and nonce of ChaCha20. Each key is used for one array of one round only."""
_ZEROS = bytes(8 * PIECE)


def pair_secrets(site: str, private: X25519PrivateKey, keys: Mapping[str, str]) -> dict[str, bytes]:
    """Return the X25519 secret of `site` with each other site.

    Parameters
    ----------
    site : str
    private : X25519PrivateKey
    keys : mapping of str to str
        Site → public key, 64 hexadecimal digits; may contain `site`.

    Raises
    ------
    ValueError
        A key has a small order: anybody knows the secret.
    """
    return {
        peer: private.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(key)))
        for peer, key in keys.items()
        if peer != site
    }


@dataclass(frozen=True)
class Masks:
    """The masks of one site in one round.

    Attributes
    ----------
    site : str
    secrets : mapping of str to bytes
        Other site → secret, from `pair_secrets`.
    transcript : bytes
        T: the SHA-256 of everything that all sites of the round must agree on.
    """

    site: str
    secrets: Mapping[str, bytes]
    transcript: bytes

    def of(self, array: str) -> ArrayMask:
        """Return the masks of an array."""
        return ArrayMask(
            [_Stream(self._key(peer, array), self.site < peer) for peer in sorted(self.secrets)]
        )

    def _key(self, peer: str, array: str) -> bytes:
        pair = json.dumps([*sorted((self.site, peer)), array]).encode()
        return HKDF(SHA256(), 32, salt=self.transcript, info=pair).derive(self.secrets[peer])


class _Stream:
    """The random numbers of one pair of sites for one array."""

    def __init__(self, key: bytes, positive: bool) -> None:
        self._keystream = Cipher(ChaCha20(key, _NONCE), None).encryptor()
        self._combine = np.add if positive else np.subtract

    def apply(self, values: NDArray[Any], scratch: memoryview) -> None:
        """Add the next numbers to `values`, or subtract them."""
        part = scratch[: values.nbytes]
        self._keystream.update_into(_ZEROS[: values.nbytes], part)
        self._combine(values, np.frombuffer(part, values.dtype), out=values)


class ArrayMask:
    """The masks of one array, which is masked piece by piece from its start."""

    def __init__(self, streams: Iterable[_Stream]) -> None:
        self._streams = [*streams]
        self._scratch = memoryview(bytearray(len(_ZEROS)))

    def apply(self, values: NDArray[Any]) -> None:
        """Mask the next numbers in place, modulo 2^32 or 2^64.

        Parameters
        ----------
        values : ndarray, uint32 or uint64, (n,)
            n ≤ `PIECE`.
        """
        for stream in self._streams:
            stream.apply(values, self._scratch)
