"""Frames become where one picture slowly turns into another: the dissolves and fades inside a clip."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32

from data_pipeline.signals.picture import Picture

COLUMNS = ("blend_change", "blend_fit", "blend_tones")
_HALF_SECONDS = 0.3  # the frame in the middle is compared with the ones so long before and after
_CHANGE, _FIT, _TONES = 8.0, 0.6, 0.08  # of a blend: a pan fits by about 0.45 and leaves the tones as they are
_BINS = 32


@dataclass(frozen=True)
class _Seen:
    seconds: float
    luma: Float32[np.ndarray, "h w"]
    tones: Float32[np.ndarray, " n"]


class Transition:
    """Per frame, about the frame 0.3 s before it, compared with the ones 0.3 s before and after that.

    `blend_change`: mean difference of luma (0 to 255) between the outer two. `blend_fit`: how much of what differs in
    the middle one is a mixture of the outer two, about half and half (1: all of it, as in a dissolve; 0: nothing).
    `blend_tones`: greatest difference between their histograms of luma (0 to 1), which movement leaves alone.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._past: deque[_Seen] = deque()

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; zeros until 0.6 s are seen."""
        now = _Seen(picture.seconds, picture.tiny_luma, _tones(picture.tiny_luma))
        self._past.append(now)
        start = now.seconds - 2 * _HALF_SECONDS + 1e-6
        while len(self._past) > 1 and self._past[1].seconds <= start:
            self._past.popleft()
        first = self._past[0]
        middle = min(self._past, key=lambda one: abs(one.seconds - (first.seconds + now.seconds) / 2))
        if first.seconds > start or not first.luma.shape == middle.luma.shape == now.luma.shape:
            return dict.fromkeys(COLUMNS, 0.0)
        change, fit = blend(first.luma, middle.luma, now.luma)
        return {
            "blend_change": change,
            "blend_fit": fit,
            "blend_tones": float(np.abs(now.tones - first.tones).sum()) / 2,
        }


def blend(
    first: Float32[np.ndarray, "h w"], middle: Float32[np.ndarray, "h w"], last: Float32[np.ndarray, "h w"]
) -> tuple[float, float]:
    """Mean change from first to last, and how well the middle is explained as their mixture (0 to 1)."""
    change = last - first
    power = float(np.vdot(change, change))
    if power == 0:
        return 0.0, 0.0
    half = middle - first
    weight = min(1.0, max(0.0, float(np.vdot(half, change)) / power))
    rest = half - weight * change
    nearer = min(float(np.vdot(half, half)), float(np.vdot(middle - last, middle - last)))
    # A middle that equals one of its neighbours lies on the line between them and yet blends nothing.
    fit = 1 - float(np.vdot(rest, rest)) / nearer if nearer > 0.04 * power else 0.0
    return float(np.abs(change).mean()), max(0.0, fit)


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
    return {"transition_seconds": longest(inside & blends(series), seconds=seconds)}


def blends(series: Mapping[str, Float[np.ndarray, " t"]]) -> Bool[np.ndarray, " t"]:
    """In which frames a blend of two pictures is seen, up to 0.6 s back."""
    marked: Bool[np.ndarray, " t"] = (
        (series["blend_change"] >= _CHANGE) & (series["blend_fit"] >= _FIT) & (series["blend_tones"] >= _TONES)
    )
    return marked


def longest(marked: Bool[np.ndarray, " t"], *, seconds: Float[np.ndarray, " t"]) -> float:
    """Seconds of the longest run of marked frames, from its first to its last frame."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False)).reshape(-1, 2)
    return max((float(seconds[stop - 1] - seconds[first]) for first, stop in edges), default=0.0)
