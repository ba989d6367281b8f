"""Some frames become hashes of parts of the picture, so that cropped and framed copies are found too."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from data_pipeline.signals.phash import hashes, square
from data_pipeline.signals.picture import Picture, Sampling

LOOKS_PER_SECOND = 4.0
"""A copy is cropped in all of its frames."""


def _inner(scale: float, *, x: float = 0.5, y: float = 0.5) -> tuple[float, float, float, float]:
    left, top = (1 - scale) * x, (1 - scale) * y
    return left, top, left + scale, top + scale


VIEWS: tuple[tuple[float, float, float, float], ...] = (
    (0.0, 0.0, 1.0, 1.0),
    *(_inner(scale) for scale in (0.95, 0.9, 0.85, 0.8)),
    *(_inner(0.9, x=x, y=y) for y in (0.0, 1.0) for x in (0.0, 1.0)),
    (0.0, 0.0, 1.0, 0.9),
    (0.0, 0.1, 1.0, 1.0),
    (0.125, 0.0, 0.875, 1.0),
)
"""Left, top, right and bottom of each part, in shares of the picture; the first is what lies between black bars.
Neighbouring sizes differ by 5 per cent, about as much as the hash forgives; the last one is 4:3 out of 16:9."""
COLUMNS = tuple(f"view_{number:02d}" for number in range(len(VIEWS)))
_BLACK, _FEWEST_LIT, _LARGEST_BAR = 20, 3, 0.3


class Views:
    """Per sampled frame: one unsigned 64-bit hash for each of `VIEWS`; 0 in the frames between.

    The first is 0 too where the picture has no black bars: the hash of the whole frame is `phash`.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._sampling = Sampling(LOOKS_PER_SECOND)

    def update(self, picture: Picture) -> dict[str, int]:
        """The values of one more frame."""
        if not self._sampling.due(picture):
            return dict.fromkeys(COLUMNS, 0)
        return dict(zip(COLUMNS, view_hashes(picture.small_luma), strict=True))


def view_hashes(luma: UInt8[np.ndarray, "h w"]) -> list[int]:
    """The hash of each view of a picture, comparable with `phash.perceptual_hash`."""
    top, bottom, left, right = content_box(luma)
    box = luma[top:bottom, left:right]
    barred = box.shape != luma.shape
    parts = [square(box)] if barred else []
    found = hashes(np.stack([*parts, *(_part(luma, view) for view in VIEWS[1:])]))
    return found if barred else [0, *found]


def content_box(luma: UInt8[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right (ends exclusive) of what is not black bar; a bar is at most 30 per cent wide."""
    lit = (luma > _BLACK).view(np.uint8)
    top, bottom = _extent(cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[:, 0])
    left, right = _extent(cv2.reduce(lit, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)[0])
    return top, bottom, left, right


def score(series: Mapping[str, Shaped[np.ndarray, " t"]]) -> dict[str, float]:  # noqa: ARG001
    """No score: the views only serve to find copies."""
    return {}


def _extent(lit_pixels: Int32[np.ndarray, " n"]) -> tuple[int, int]:
    """First and last line that is not black, unless too much is: a dark picture is not a bar."""
    lit, count = np.flatnonzero(lit_pixels >= _FEWEST_LIT), len(lit_pixels)
    if not len(lit):
        return 0, count
    first, stop = int(lit[0]), int(lit[-1]) + 1
    return (first, stop) if max(first, count - stop) <= _LARGEST_BAR * count else (0, count)


def _part(luma: UInt8[np.ndarray, "h w"], view: tuple[float, float, float, float]) -> UInt8[np.ndarray, "32 32"]:
    height, width = luma.shape
    left, top, right, bottom = view
    return square(luma[round(top * height) : round(bottom * height), round(left * width) : round(right * width)])
