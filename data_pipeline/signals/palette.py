"""Frames become named colours and where the light is: what the measured captions speak of."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from data_pipeline.signals.picture import Picture, Sampling

COLOURS = ("black", "grey", "white", "red", "orange", "brown", "yellow", "green", "teal", "blue", "purple", "pink")
_LOOKS_PER_SECOND = 8.0
_THIN = 3  # of the small picture, every third pixel of every third row has a say
# Upper ends of the hue ranges, in OpenCV's half degrees; red closes the circle.
_HUES = ((8, "red"), (21, "orange"), (30, "yellow"), (80, "green"), (98, "teal"), (130, "blue"), (150, "purple"))
_PINK_HUE, _RED_HUE = 168, 180


def _name_of_hue() -> UInt8[np.ndarray, " n"]:
    names = np.full(256, COLOURS.index("red"), np.uint8)
    low = 0
    for high, name in (*_HUES, (_PINK_HUE, "pink"), (_RED_HUE, "red")):
        names[low:high] = COLOURS.index(name)
        low = high
    return names


_NAME_OF_HUE = _name_of_hue()


class Palette:
    """Per frame: share (0 to 1) of the pixels of each named colour; luma of the upper less the lower half, and of the
    left less the right half (-255 to 255), measured eight times a second and held in between; luma spread (standard
    deviation)."""

    columns = (*COLOURS, "upper_light", "left_light", "contrast")

    def __init__(self) -> None:
        self._sampling = Sampling(_LOOKS_PER_SECOND)
        self._held: dict[str, float] = {}

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        if self._sampling.due(picture):
            self._held = self._look(picture)
        return {**self._held, "contrast": float(cv2.meanStdDev(picture.small_luma)[1][0, 0])}

    def _look(self, picture: Picture) -> dict[str, float]:
        luma = picture.small_luma
        middle_row, middle_column = luma.shape[0] // 2, luma.shape[1] // 2
        return {
            **colour_shares(np.ascontiguousarray(picture.small_rgb[::_THIN, ::_THIN])),
            "upper_light": cv2.mean(luma[:middle_row])[0] - cv2.mean(luma[middle_row:])[0],
            "left_light": cv2.mean(luma[:, :middle_column])[0] - cv2.mean(luma[:, middle_column:])[0],
        }


def colour_shares(rgb: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """Share of the pixels of each named colour; the shares add up to 1."""
    hue, saturation, value = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    index = _NAME_OF_HUE[hue]
    warm = (hue < 26) | (hue >= _PINK_HUE)
    index[warm & (value < 150) & (saturation >= 45) & (hue >= 4) & (hue < 26)] = COLOURS.index("brown")
    index[warm & (saturation < 110) & (value > 190) & ((hue < 8) | (hue >= _PINK_HUE))] = COLOURS.index("pink")
    faint = saturation < 45
    index[faint] = COLOURS.index("grey")
    index[faint & (value > 200)] = COLOURS.index("white")
    index[value < 45] = COLOURS.index("black")
    counts = np.bincount(index.ravel(), minlength=len(COLOURS)) / index.size
    return {name: float(share) for name, share in zip(COLOURS, counts, strict=True)}


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """Means over the frames: `colour_<name>` for each named colour, `upper_light`, `left_light`, `contrast`."""
    shares = {f"colour_{name}": float(series[name].mean()) for name in COLOURS}
    return {**shares, **{name: float(series[name].mean()) for name in ("upper_light", "left_light", "contrast")}}
