"""Frames become 64-bit perceptual hashes: what survives re-encoding and scaling, for finding copies."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from data_pipeline.signals.picture import Picture

HASH_BITS = 64
_SIDE = 32
_STEP_SECONDS = 0.5


def frequencies() -> np.ndarray:
    """Flat indices of the 64 lowest frequencies of a 32 x 32 DCT behind the mean, lowest first."""
    rows, columns = np.divmod(np.arange(_SIDE * _SIDE), _SIDE)
    return np.lexsort((columns, rows, rows**2 + columns**2))[1 : HASH_BITS + 1]


_FREQUENCIES = frequencies()


class PerceptualHash:
    """Per frame: `phash`, an unsigned 64-bit integer (see `perceptual_hash`)."""

    columns = ("phash",)

    def update(self, picture: Picture) -> dict[str, int]:
        """The value of one more frame."""
        return {"phash": perceptual_hash(picture.small_luma)}


def perceptual_hash(luma: UInt8[np.ndarray, "h w"]) -> int:
    """64 bits: which of the 64 lowest DCT frequencies of the 32 x 32 luma lie above their median.

    Copies of a picture (other size, codec or light) differ in a few bits, other pictures in about 32. A picture of
    one colour is 0: it says nothing, so nothing should be matched by it.
    """
    small = cv2.resize(luma, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    # Whole numbers, so that rounding noise of flat pictures gives no bits and the hash is the same everywhere.
    coefficients = np.rint(cv2.dct(small.astype(np.float32)).ravel()[_FREQUENCIES])
    return int.from_bytes(np.packbits(coefficients > np.median(coefficients)).tobytes(), "big")


def hamming(left: Shaped[np.ndarray, " n"], right: Shaped[np.ndarray, " n"]) -> np.ndarray:
    """Number of bits (0 to 64) in which each pair of uint64 hashes differs."""
    counts: np.ndarray = np.bitwise_count(left.astype(np.uint64) ^ right.astype(np.uint64))
    return counts


def score(series: Mapping[str, Shaped[np.ndarray, " t"]]) -> dict[str, float]:
    """`phash_change`: bits (0 to 64) in which pictures half a second apart differ, on average. 0: nothing new comes."""
    hashes, seconds = series["phash"], series["seconds"]
    later = np.searchsorted(seconds, seconds + _STEP_SECONDS - 1e-6)
    first = np.flatnonzero(later < len(seconds))
    if not len(first):
        first, later = np.array([0]), np.full(1, len(seconds) - 1)
    return {"phash_change": float(hamming(hashes[first], hashes[later[first]]).mean())}
