"""Frames become how much of them is black bars, and the rectangle that is left when the bars are cut off."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipeline.signals.picture import Picture

COLUMNS = ("bar_top", "bar_bottom", "bar_left", "bar_right")
_BLACK_MEAN, _BLACK_PEAK = 20, 48  # luma of a line of a bar: coding noise and ringing included
_EDGE = 6.0  # a bar ends with a jump of light: the line behind it is brighter by so much, or it is a dark scene
_AGREE = 0.05  # share of frames that may show less bar than the score says


class Borders:
    """Per frame: thickness of the black bars as shares (0 to 1) of the height, or width; NaN for a black picture."""

    columns = COLUMNS

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        return dict(zip(COLUMNS, bars(picture.luma), strict=True))


def bars(luma: UInt8[np.ndarray, "h w"]) -> tuple[float, float, float, float]:
    """Shares of the picture that are black bars: top, bottom, left, right. NaN where all of it is black."""
    found: list[float] = []
    for axis in (1, 0):
        means, peaks = luma.mean(axis=axis), luma.max(axis=axis)
        black = (means <= _BLACK_MEAN) & (peaks <= _BLACK_PEAK)
        if black.all():
            return (float("nan"),) * 4
        found += [_bar(black, means), _bar(black[::-1], means[::-1])]
    return found[0], found[1], found[2], found[3]


def _bar(black: Bool[np.ndarray, " n"], means: Float[np.ndarray, " n"]) -> float:
    """Share of the lines, from the first on, that belong to a bar."""
    count = int(np.argmin(black))
    if not count:
        return 0.0
    # One line of the border is a mixture after scaling, so the light is compared one line further in.
    inside = float(means[min(count + 1, len(means) - 1)])
    return count / len(means) if inside - float(np.median(means[:count])) >= _EDGE else 0.0


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """Bars that are there all the time, as shares (0 to 1) of the picture; black frames have no say.

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
    return float(np.quantile(seen, _AGREE, method="lower")) if len(seen) else 0.0
