"""Frames become how often large parts of the picture flash: what harms photosensitive people, and no film needs."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float

from data_pipeline.signals.picture import Picture, Sampling

_CELLS = 8  # the picture is looked at as 8 x 8 parts
_STEP = 0.1  # of the greatest relative luminance: WCAG 2.2, "general flash"
_DARKER_BELOW = 0.8  # the darker of the two states
_AREA = 0.25  # of the picture that changes at once
_GAMMA = 2.2
_MEMORY_SECONDS = 2.0


class Flashing:
    """Per frame: `flash_rise`, `flash_fall`: share (0 to 1) of the picture whose luminance just completed a rise, or a
    fall, of a tenth of full scale out of its last turning point."""

    columns = ("flash_rise", "flash_fall")

    def __init__(self) -> None:
        self._low: Float[np.ndarray, "8 8"] | None = None
        self._high = np.zeros((_CELLS, _CELLS))
        self._direction = np.zeros((_CELLS, _CELLS), np.int8)
        self._sampling = Sampling(1 / _MEMORY_SECONDS)

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        cells = cv2.resize(picture.tiny_luma, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        light = (cells.astype(np.float64) / 255) ** _GAMMA
        # What was before is forgotten every two seconds: parts measured side by side then agree with the whole.
        if self._sampling.due(picture) or self._low is None:
            self._low, self._high = light, light
            self._direction[:] = 0
        self._low, self._high = np.minimum(self._low, light), np.maximum(self._high, light)
        if float((self._high - self._low).max()) < _STEP:
            return {"flash_rise": 0.0, "flash_fall": 0.0}
        rise = (self._direction <= 0) & (light - self._low >= _STEP) & (self._low < _DARKER_BELOW)
        fall = (self._direction >= 0) & (self._high - light >= _STEP) & (light < _DARKER_BELOW) & ~rise
        self._direction[rise], self._direction[fall] = 1, -1
        # The next turning point is sought from here on.
        turned = rise | fall
        self._low, self._high = np.where(turned, light, self._low), np.where(turned, light, self._high)
        return {"flash_rise": float(rise.mean()), "flash_fall": float(fall.mean())}


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`flash_rate`: the most flashes within any second. A flash is a rise and a fall, in either order, of a quarter of
    the picture at least. Three are the limit of WCAG 2.2, success criterion 2.3.1; the unit is flashes per second."""
    seconds = series["seconds"][1:]
    swing = np.where(series["flash_rise"][1:] >= _AREA, 1, np.where(series["flash_fall"][1:] >= _AREA, -1, 0))
    turns = np.flatnonzero(swing)
    # Two rises in a row are one rise.
    turns = turns[np.diff(swing[turns], prepend=0) != 0]
    within = np.searchsorted(seconds[turns], seconds[turns] + 1.0 - 1e-6) - np.arange(len(turns))
    return {"flash_rate": float(within.max()) / 2 if len(turns) else 0.0}
