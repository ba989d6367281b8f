"""What was measured of every frame becomes how much each looks like part of a dissolve, by the law of mixed pictures.

While one shot is mixed into another, `(1 - a) A + a B` with `a` rising evenly from 0 to 1, the variance of the picture
is `(1 - a)² var A + a² var B + 2 a (1 - a) cov(A, B)`: a parabola that hangs below the line between its ends (Alattar,
"Detecting and compressing dissolve regions in video sequences with a DVI multimedia image compression algorithm",
ISCAS 1993). It hangs by `a (1 - a) (var A + var B)` where the two are not related, which holds of fine detail whatever
is shown, and nearly of light. A camera or a subject that moves leaves both variances about as they are. Follows from
stored columns alone: another threshold needs no decoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data_pipeline.signals.phash import hamming

COLUMN = "dissolve"
_SHORTEST, _LONGEST, _FINER = 0.1, 0.8, 1.15  # half lengths that are tried: seconds, each so many times the one before
_FEWEST = 3  # frames of a half: with less a cut cannot be told from a dissolve
_DETAIL, _LIGHT = (0.65, 1.45), (0.62, 1.35)  # of how far the parabola must hang: a fade hangs twice as far
_OTHER_BITS = 22  # of 64, between the hashes before and after: less is the same scene in other light
_EVEN = 3.6  # times the mean change that one step may bring: more is a cut
_LEAST_CHANGE = 0.1  # of hue, saturation and value: less is coding noise
_MOVED = 0.35  # short sides that the picture may shift and grow meanwhile: more is a camera that turns or zooms


@dataclass(frozen=True)
class _Found:
    rank: float
    likeness: float
    first: int
    stop: int


def likeness(series: Mapping[str, np.ndarray]) -> Float[np.ndarray, " t"]:
    """Per frame, how well (0 to 1) the passage that it lies in follows the law of a dissolve; 0 outside of any.

    Takes `seconds`, `laplacian`, `contrast`, `phash`, `content`, `flow_x`, `flow_y`, `zoom`. Passages do not overlap.
    """
    found = np.zeros(len(series["seconds"]))
    for one in sorted(_passages(series), key=lambda one: (-one.rank, one.first)):
        if not found[one.first : one.stop].any():
            found[one.first : one.stop] = one.likeness
    return found


def _passages(series: Mapping[str, np.ndarray]) -> Iterator[_Found]:
    detail, light = series["laplacian"].astype(np.float64), series["contrast"].astype(np.float64) ** 2
    for half in _halves(series["seconds"]):
        if 2 * half + 3 > len(detail):
            return
        hang, fit = _parabola(detail, half)
        plausible = (hang >= _DETAIL[0]) & (hang <= _DETAIL[1])
        if not plausible.any():
            continue
        light_hang, light_fit = _parabola(light, half)
        plausible &= (light_hang >= _LIGHT[0]) & (light_hang <= _LIGHT[1]) & _becomes_another(series, half)
        alike = np.minimum(fit, light_fit)
        # A part of a dissolve is a parabola too, but a flatter one.
        rank = alike * np.sqrt(np.clip(hang, 0, 1))
        for place in np.flatnonzero(plausible).tolist():
            # Windows begin half + 1 frames before the frame in their middle.
            yield _Found(float(rank[place]), float(alike[place]), place + 1, place + 2 * half + 2)


def _halves(seconds: Float[np.ndarray, " t"]) -> list[int]:
    """Half lengths in frames, shortest first."""
    if len(seconds) < 2:
        return []
    rate = 1 / max(1e-3, float(np.median(np.diff(seconds))))
    count = int(np.log(_LONGEST / _SHORTEST) / np.log(_FINER)) + 1
    return sorted({max(_FEWEST, round(rate * _SHORTEST * _FINER**number)) for number in range(count + 1)})


def _parabola(values: Float[np.ndarray, " t"], half: int) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Of each window of `2 half + 1` frames with one more at either end: how far it hangs below the line between its
    ends, in units of the law, and the share (0 to 1) of its distance from that line which the parabola explains."""
    share = np.arange(2 * half + 1) / (2 * half)
    bow = share * (1 - share)
    before, after = (values[1:] + values[:-1])[: -2 * half - 1] / 2, (values[1:] + values[:-1])[2 * half + 1 :] / 2
    inner = values[1:-1]
    total, rising, bowed = (np.correlate(inner, kernel, mode="valid") for kernel in (np.ones_like(share), share, bow))
    squares = np.correlate(inner**2, np.ones_like(share), mode="valid")
    line_bow = (before + after) * bow.sum() / 2
    line_line = (before**2 + after**2) * (share**2).sum() + 2 * before * after * bow.sum()
    line_values = before * (total - rising) + after * rising
    below = np.maximum(line_line - 2 * line_values + squares, 1e-9)
    unit = np.maximum(before + after, 1e-9)
    along = line_bow - bowed
    return along / (unit * (bow**2).sum()), np.sign(along) * along**2 / ((bow**2).sum() * below)


def _becomes_another(series: Mapping[str, np.ndarray], half: int) -> Bool[np.ndarray, " m"]:
    """Of the same windows: whether another picture has come at the end, neither at a blow nor by a moving camera."""
    hashes, content = series["phash"][1:-1], series["content"].astype(np.float64)[1:-1]
    other = hamming(hashes[: -2 * half], hashes[2 * half :]) >= _OTHER_BITS
    steps = np.lib.stride_tricks.sliding_window_view(content[1:], 2 * half)
    even = steps.max(axis=1) <= _EVEN * np.maximum(steps.mean(axis=1), _LEAST_CHANGE)
    strayed = np.zeros(len(other))
    for name in ("flow_x", "flow_y", "zoom"):
        path = np.cumsum(series[name][1:-1], dtype=np.float64)
        # Where the camera is at the beginning, in the middle and at the end.
        places = np.stack([path[: -2 * half], path[half:-half], path[2 * half :]])
        strayed += np.ptp(places, axis=0)
    passed: Bool[np.ndarray, " m"] = other & even & (strayed <= _MOVED)
    return passed
