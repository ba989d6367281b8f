"""Frames become 64-bit perceptual hashes: what survives re-encoding and scaling, for finding copies."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from data_pipeline.signals.picture import Picture

HASH_BITS = 64
_SIDE = 32
_NEAR = 2  # the multiple of it that is made first is itself one of this
_STEP_SECONDS = 0.5


def _frequencies() -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the 64 lowest frequencies of a 32 x 32 DCT behind the mean, lowest first."""
    rows, columns = np.divmod(np.arange(_SIDE * _SIDE), _SIDE)
    lowest = np.lexsort((columns, rows, rows**2 + columns**2))[1 : HASH_BITS + 1]
    return rows[lowest], columns[lowest]


def _dct_rows(count: int) -> np.ndarray:
    """The first rows of the orthonormal DCT-II matrix."""
    angles = np.pi * (2 * np.arange(_SIDE) + 1) * np.arange(count)[:, None] / (2 * _SIDE)
    rows: np.ndarray = np.cos(angles) * np.sqrt(2 / _SIDE)
    rows[0] /= np.sqrt(2)
    return rows


_ROWS, _COLUMNS = _frequencies()
_SPAN = int(max(_ROWS.max(), _COLUMNS.max())) + 1
_DCT = _dct_rows(_SPAN)
_PICKED = _ROWS * _SPAN + _COLUMNS


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
    return hashes(square(luma)[None])[0]


def square(luma: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "32 32"]:
    """The picture as 32 x 32 means. A multiple of that first, as means of whole pixels cost a third."""
    height, width = (_SIDE * max(1, round(size / _SIDE / _NEAR) * _NEAR) for size in luma.shape)
    near = cv2.resize(luma, (width, height), interpolation=cv2.INTER_LINEAR)
    small: UInt8[np.ndarray, "32 32"] = cv2.resize(near, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return small


def hashes(squares: UInt8[np.ndarray, "n 32 32"]) -> list[int]:
    """The hash of each 32 x 32 picture."""
    spectra = (_DCT @ squares.astype(np.float64) @ _DCT.T).reshape(len(squares), -1)
    # Whole numbers, so that rounding noise of flat pictures gives no bits and the hash is the same everywhere.
    coefficients = np.rint(spectra[:, _PICKED])
    ordered = np.sort(coefficients, axis=1)
    middle = (ordered[:, HASH_BITS // 2 - 1, None] + ordered[:, HASH_BITS // 2, None]) / 2
    bits = np.ascontiguousarray(np.packbits(coefficients > middle, axis=1))
    found: list[int] = bits.view(">u8").ravel().tolist()
    return found


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
