"""Frames become where one picture slowly turns into another: the dissolves and fades inside a clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from data_pipeline.signals.picture import Picture

COLUMNS = ("blend_change", "blend_fit", "blend_tones")
_HALF_SECONDS = 0.3  # the frame in the middle is compared with the ones so long before and after
_CHANGE, _FIT, _TONES = 9.0, 0.72, 0.12
_BINS = 32


class Transition:
    """Per frame, about the frame 0.3 s before it, compared with the ones 0.3 s before and after that.

    `blend_change`: mean difference of luma (0 to 255) between the outer two. `blend_fit`: how much of what differs in
    the middle one is a mixture of the outer two, about half and half (1: all of it, as in a dissolve; 0: nothing).
    `blend_tones`: difference of the outer two's histograms of luma (0 to 1), which movement leaves alone.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._past: deque[tuple[float, Float32[np.ndarray, "h w"]]] = deque()

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; zeros until 0.6 s are seen."""
        self._past.append((picture.seconds, picture.tiny_luma))
        start = picture.seconds - 2 * _HALF_SECONDS + 1e-6
        while len(self._past) > 1 and self._past[1][0] <= start:
            self._past.popleft()
        first_seconds, first = self._past[0]
        if first_seconds > start or first.shape != picture.tiny_luma.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        middle = min(self._past, key=lambda one: abs(one[0] - (first_seconds + picture.seconds) / 2))[1]
        if middle.shape != first.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        return dict(zip(COLUMNS, blend(first, middle, picture.tiny_luma), strict=True))


def blend(
    first: Float32[np.ndarray, "h w"], middle: Float32[np.ndarray, "h w"], last: Float32[np.ndarray, "h w"]
) -> tuple[float, float, float]:
    """Change from first to last, how well the middle is explained as their mixture, and change of the histogram."""
    change = last - first
    power = float(np.vdot(change, change))
    tones = float(np.abs(_tones(last) - _tones(first)).sum()) / 2
    if power == 0:
        return 0.0, 0.0, 0.0
    half = middle - first
    weight = min(1.0, max(0.0, float(np.vdot(half, change)) / power))
    rest = half - weight * change
    nearer = min(float(np.vdot(half, half)), float(np.vdot(middle - last, middle - last)))
    # A middle that equals one of its neighbours lies on the line between them and yet blends nothing.
    fit = 1 - float(np.vdot(rest, rest)) / nearer if nearer > 0.04 * power else 0.0
    return float(np.abs(change).mean()), max(0.0, fit), tones


def _tones(luma: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, " n"]:
    counts = cv2.calcHist([luma], [0], None, [_BINS], [0, 256]).ravel()
    smooth: Float32[np.ndarray, " n"] = np.convolve(counts, (0.25, 0.5, 0.25), mode="same") / luma.size
    return smooth


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`transition_seconds`: longest time without a break in which the picture blends into another one. 0: none.

    Looks at frames whose neighbours, 0.3 s before and after, lie inside the clip too.
    """
    seconds = series["seconds"]
    inside = seconds >= seconds[0] + 2 * _HALF_SECONDS - 1e-6
    blends = inside & (series["blend_change"] >= _CHANGE) & (series["blend_fit"] >= _FIT)
    blends &= series["blend_tones"] >= _TONES
    return {"transition_seconds": longest(blends, seconds=seconds)}


def longest(marked: Bool[np.ndarray, " t"], *, seconds: Float[np.ndarray, " t"]) -> float:
    """Seconds of the longest run of marked frames, from its first to its last frame."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False)).reshape(-1, 2)
    return max((float(seconds[stop - 1] - seconds[first]) for first, stop in edges), default=0.0)
