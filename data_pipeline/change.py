"""Frames become how they change and how light they are: what shot boundaries follow from."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipeline.signals.picture import Picture

COLUMNS = ("content", "brightness")


class Change:
    """Per frame: `content`, mean change of hue, saturation and value (0 to 255) against the frame before, as in
    PySceneDetect's ContentDetector; `brightness`, mean of red, green and blue (0 to 255), as in its ThresholdDetector.
    """

    columns = COLUMNS

    def __init__(self) -> None:
        self._before: UInt8[np.ndarray, "h w 3"] | None = None

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame; no change for the first."""
        hsv = cv2.cvtColor(picture.small_rgb, cv2.COLOR_RGB2HSV)
        before, self._before = self._before, hsv
        content = 0.0
        if before is not None:
            same = before.shape == hsv.shape
            content = sum(cv2.mean(cv2.absdiff(before, hsv))[:3]) / 3 if same else 255.0
        return {"content": content, "brightness": sum(cv2.mean(picture.small_rgb)[:3]) / 3}
