"""The codec: encode arrays as the bytes of a message, and decode them.

From the server to a site, an array is sent as float32 or rounded to float16. From a site to the
server, it is sent as float32, or as the difference from the array that the site received: float16
or int8 numbers with one float32 scale per channel (the first axis). Both ends know the received
array. The rounding error of an update is added to the next update of the same site (error
feedback: Seide et al. 2014, Karimireddy et al. 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays, pack, unpack
from mdmt.config.training import WireConfig

Array = NDArray[Any]
_LEVELS: dict[str, tuple[type[np.generic], float]] = {
    "float16": (np.float16, 2.0**15),
    "int8": (np.int8, 127.0),
}
"""By encoding: the type of the numbers, and the number for the largest value of a channel."""
_SCALE = ":scale"
_SMALL, _SHORT = 1024, 8
"""Arrays with fewer numbers, or fewer numbers per channel, stay float32."""
_TINY = float(np.finfo(np.float32).tiny)
_PEAK = 1e38
"""Largest difference that is encoded, so that products with its scale are finite."""
_SLACK = 4096
"""Largest number of bytes of an array besides its values: its name, shape and offsets."""


@dataclass(frozen=True)
class Codec:
    """Encoder and decoder of the messages of one federation."""

    wire: WireConfig

    def broadcast(self, arrays: Arrays) -> bytes:
        """Encode arrays for the sites."""
        if self.wire.down == "float32":
            return pack(arrays)
        return pack({name: _half(array) for name, array in arrays.items()})

    def receive(self, blob: bytes, limit: int) -> dict[str, Array]:
        """Decode the arrays that `broadcast` encoded.

        Raises
        ------
        ValueError
            The blob has more than `limit` bytes, or cannot be decoded.
        """
        if len(blob) > limit:
            raise ValueError(f"the message has {len(blob)} bytes, at most {limit} are expected")
        return {name: _single(array) for name, array in unpack(blob).items()}

    def upload(
        self, arrays: Arrays, received: Arrays, lost: Arrays
    ) -> tuple[bytes, dict[str, NDArray[np.float32]]]:
        """Encode a site's update.

        Parameters
        ----------
        arrays : mapping of str to ndarray
        received : mapping of str to ndarray
            The decoded arrays that the site received.
        lost : mapping of str to ndarray
            Rounding errors of the last update of the site.

        Returns
        -------
        bytes
        dict of str to ndarray
            Rounding errors of this update; empty for float32.
        """
        encoded: dict[str, Array] = {}
        now_lost: dict[str, NDArray[np.float32]] = {}
        for name, array in arrays.items():
            quantised = None
            if self.wire.up != "float32" and _is_large(array):
                with np.errstate(over="ignore", invalid="ignore"):
                    difference = array - received[name]
                    if name in lost:
                        difference += lost[name]
                quantised = _quantise(difference, self.wire.up)
            if quantised is None:
                encoded[name] = array
                continue
            encoded[name], encoded[name + _SCALE] = quantised
            now_lost[name] = np.subtract(difference, _values(*quantised), out=difference)
        return pack(encoded), now_lost

    def decode_upload(self, blob: bytes, sent: Arrays) -> dict[str, Array]:
        """Decode a site's update.

        A difference is added to the exact array of the server, not to the rounded array that the
        site received. So rounding errors of the broadcast do not add up over rounds.

        Parameters
        ----------
        blob : bytes
        sent : mapping of str to ndarray
            The arrays that `broadcast` encoded.

        Raises
        ------
        ValueError
            The blob cannot be decoded, or has a difference without a base or a scale.
        """
        encoded = unpack(blob)
        if self.wire.up == self.wire.down == "float32":
            return encoded
        arrays: dict[str, Array] = {}
        for name, array in encoded.items():
            if name.endswith(_SCALE) and name.removesuffix(_SCALE) in encoded:
                continue
            base = sent.get(name)
            if self.wire.up != "float32" and array.dtype == _LEVELS[self.wire.up][0]:
                arrays[name] = self._difference(name, array, encoded, base)
            elif self.wire.down == "float16" and base is not None and base.shape == array.shape:
                arrays[name] = array + (base - _single(_half(base)))
            else:
                arrays[name] = array
        return arrays

    def _difference(
        self, name: str, array: Array, encoded: Arrays, base: Array | None
    ) -> NDArray[np.float32]:
        """Decode a difference and add it to `base`."""
        scale, largest = encoded.get(name + _SCALE), _LEVELS[self.wire.up][1]
        if base is None or base.shape != array.shape or not array.ndim:
            raise ValueError(f"array {name[:80]} is a difference from an array that was not sent")
        if scale is None or scale.dtype != np.float32 or scale.shape != array.shape[:1]:
            raise ValueError(f"array {name[:80]} has no scale for each channel")
        if not np.all((scale >= _TINY) & (scale <= 2 * _PEAK / largest)):
            raise ValueError(f"array {name[:80]} has an invalid scale")
        values = _values(array, scale)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.add(values, base, out=values)


def largest_message(arrays: Mapping[str, int]) -> int:
    """Return the largest size of a blob with arrays of these sizes, for any encoding."""
    return sum(size + 2 * _SLACK for size in arrays.values()) + _SLACK


def _is_large(array: Array) -> bool:
    """Return True if the array is large enough to be rounded. Running statistics are not."""
    channels = len(array) if array.ndim > 1 else array.size
    return bool(array.dtype == np.float32 and array.size >= max(_SMALL, _SHORT * channels))


def _half(array: Array) -> Array:
    """Round to float16, unless the array is small or a value does not fit."""
    if not _is_large(array) or np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        return array
    return array.astype(np.float16)


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _quantise(
    difference: NDArray[np.float32], encoding: str
) -> tuple[Array, NDArray[np.float32]] | None:
    """Return numbers and the scale of each channel, or None if a value is too large or NaN."""
    dtype, largest = _LEVELS[encoding]
    channels = difference.reshape(len(difference), -1)
    peak = np.maximum(channels.max(axis=1), -channels.min(axis=1))
    if not np.all(peak <= _PEAK):  # also False for NaN
        return None
    scale = np.maximum(peak / np.float32(largest), np.float32(_TINY))  # also for a channel of zeros
    numbers = channels / scale[:, None]
    if encoding == "int8":
        np.rint(numbers, out=numbers)
    return numbers.astype(dtype).reshape(difference.shape), scale


def _values(numbers: Array, scale: NDArray[np.float32]) -> NDArray[np.float32]:
    values = numbers.astype(np.float32)
    channels = values.reshape(len(values), -1)
    channels *= scale[:, None]
    return values
