"""Frames become how light they are and how much of them is crushed to black or white."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import Float

from data_pipeline.signals.picture import Picture

DARK_LUMA, BRIGHT_LUMA = 8, 247
BLANK_SHARE = 0.98
"""Of the pixels of a black or a white frame: a logo in a corner is none of its picture."""


class Exposure:
    """Per frame: mean luma (0 to 255), and the shares (0 to 1) of pixels at most 8 and at least 247."""

    columns = ("luma", "dark_share", "bright_share")

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        luma = picture.small_luma
        return {
            "luma": cv2.mean(luma)[0],
            "dark_share": 1 - cv2.countNonZero(cv2.compare(luma, DARK_LUMA, cv2.CMP_GT)) / luma.size,
            "bright_share": cv2.countNonZero(cv2.compare(luma, BRIGHT_LUMA, cv2.CMP_GE)) / luma.size,
        }


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`luma_mean` 0 to 255; `dark_share`, `bright_share` 0 to 1, of the pixels; `clipped_share` is their sum.

    `black_share`, `white_share`: share (0 to 1) of the frames that are all black, or all white.
    """
    dark, bright = float(series["dark_share"].mean()), float(series["bright_share"].mean())
    return {
        "luma_mean": float(series["luma"].mean()),
        "dark_share": dark,
        "bright_share": bright,
        "clipped_share": dark + bright,
        "black_share": float((series["dark_share"] >= BLANK_SHARE).mean()),
        "white_share": float((series["bright_share"] >= BLANK_SHARE).mean()),
    }
