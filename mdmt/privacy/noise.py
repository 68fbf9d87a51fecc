"""Secret random numbers of a site: ChaCha20, with a key for each step and purpose.

A federation's seed is known to the server. Who knows the noise subtracts it, and who knows the
sample needs no luck. Therefore neither comes from the seed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray
from scipy.special import ndtri

Purpose = Literal["sample", "noise", "augmentation", "dropout"]


@dataclass(frozen=True)
class NoiseSource:
    """The random numbers of one round.

    Parameters
    ----------
    secret : bytes
        Known to the site only.
    identity : str
        Hash of everything that decides the gradients of the round. Equal identities give equal
        numbers, so that a repeated order gives the same bits and reveals nothing new. Two different
        gradients must never share an identity: the difference of the results would have no noise.
    """

    secret: bytes
    identity: str

    def stream(self, step: int, purpose: Purpose) -> KeyStream:
        """Return the numbers of a step (from 0) for one purpose."""
        text = f"mdmt dp\x1f{self.identity}\x1f{step}\x1f{purpose}".encode()
        return KeyStream(hmac.digest(self.secret, text, hashlib.sha256))


class KeyStream:
    """Random numbers from a ChaCha20 key stream.

    Parameters
    ----------
    key : bytes
        32 bytes; used for one stream only, so the nonce is 0.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()

    def integers(self, n: int) -> NDArray[np.uint64]:
        """Return n integers, uniform in [0, 2^64)."""
        return np.frombuffer(self._cipher.update(bytes(8 * n)), "<u8")

    def chosen(self, probability: float, n: int) -> NDArray[np.bool_]:
        """Choose each of n with `probability`, independently. Probabilities are exact to 2^-53."""
        return np.asarray((self.integers(n) >> np.uint64(11)) * 2.0**-53 < probability)

    def normals(self, n: int) -> NDArray[np.float64]:
        """Return n numbers of the standard normal distribution.

        They are the quantiles of uniform numbers on a grid of 2^-53. So no number is beyond ±8.3,
        which a normal number is with probability 10^-16.
        """
        uniform = ((self.integers(n) >> np.uint64(11)) + 0.5) * 2.0**-53
        # The largest uniform number rounds to 1, whose quantile is infinite.
        return np.asarray(ndtri(np.minimum(uniform, 1 - 2.0**-53)))

    def seed(self) -> int:
        """Return a seed for torch, in [0, 2^63)."""
        return int(self.integers(1)[0] >> np.uint64(1))
