"""Frames become how much of them is black bars, and the rectangle that is left when the bars are cut off."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipeline.signals.picture import Picture

COLUMNS = ("bar_top", "bar_bottom", "bar_left", "bar_right")
_BLACK_MEAN, _BLACK_PEAK = 20, 40  # luma of a line of a bar: coding noise and ringing included
_EDGE = 6.0  # a bar ends with a jump of light from one line to the next but one; a dark scene fades
_AGREE = 0.05  # share of frames that may show less bar than the score says
_LEAST_SEEN = 0.2  # share of the frames in which the edge of a bar must be seen


class Borders:
    """Per frame: thickness of the black bars as shares (0 to 1) of the height, or width; NaN where the picture is too
    dark to tell where a bar ends."""

    columns = COLUMNS

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        return dict(zip(COLUMNS, bars(picture.luma), strict=True))


def bars(luma: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """Shares of the picture that are black bars: top, bottom, left, right. NaN where it is black without an edge."""
    found: list[float] = []
    for axis, lines in ((1, luma), (0, luma.T)):
        if not (_is_black(lines[0]) or _is_black(lines[-1])):  # most pictures have no bar, which is soon seen
            found += [0.0, 0.0]
            continue
        means, peaks = cv2.reduce(luma, axis, cv2.REDUCE_AVG, dtype=cv2.CV_32F).ravel(), luma.max(axis=axis)
        black = (means <= _BLACK_MEAN) & (peaks <= _BLACK_PEAK)
        if black.all():
            return (float("nan"),) * 4
        found += [_bar(black, means), _bar(black[::-1], means[::-1])]
    return found[0], found[1], found[2], found[3]


def _is_black(line: UInt8[np.ndarray, " n"]) -> bool:
    return bool(line.max() <= _BLACK_PEAK and line.mean() <= _BLACK_MEAN)


def _bar(black: Bool[np.ndarray, " n"], means: Float[np.ndarray, " n"]) -> float:
    """Share of the lines, from the first on, that belong to a bar."""
    count = int(np.argmin(black))
    if not count:
        return 0.0
    # The line at the edge is a mixture after scaling, so the ones on both sides of it are compared.
    inside, bar = float(means[min(count + 1, len(means) - 1)]), float(means[max(0, count - 2)])
    return count / len(means) if inside - bar >= _EDGE else float("nan")


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """Bars that are there all the time, as shares (0 to 1) of the picture; frames too dark to tell have no say.

    `letterbox_share`: of the height, above and below; `pillarbox_share`: of the width, at the sides; `border_share`: of
    the area. `crop_top`, `crop_bottom`, `crop_left`, `crop_right`: how much to cut off on each side.
    """
    cut = {name.replace("bar", "crop"): _lasting(series[name]) for name in COLUMNS}
    letterbox, pillarbox = cut["crop_top"] + cut["crop_bottom"], cut["crop_left"] + cut["crop_right"]
    return {
        **cut,
        "letterbox_share": letterbox,
        "pillarbox_share": pillarbox,
        "border_share": 1 - (1 - letterbox) * (1 - pillarbox),
    }


def _lasting(shares: Float[np.ndarray, " t"]) -> float:
    seen = shares[~np.isnan(shares)]
    return float(np.quantile(seen, _AGREE, method="lower")) if len(seen) >= _LEAST_SEEN * len(shares) else 0.0
