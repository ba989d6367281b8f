"""One decoded frame becomes the few small pictures that all signals share, so that each is made once."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

ANALYSIS_SHORT_SIDE = 256
"""Frames are decoded to this short side: blur shows, cost stays low."""
SMALL_SHORT_SIDE = 144
"""Flow and cut detection work on this short side."""


@dataclass(frozen=True)
class Picture:
    """`rgb` and `luma` at the analysis size; `small_rgb` and `small_luma` at most 144 on the short side."""

    rgb: UInt8[np.ndarray, "h w 3"]
    luma: UInt8[np.ndarray, "h w"]
    small_rgb: UInt8[np.ndarray, "h2 w2 3"]
    small_luma: UInt8[np.ndarray, "h2 w2"]


def picture_of(rgb: UInt8[np.ndarray, "h w 3"]) -> Picture:
    """The shared pictures of one RGB frame."""
    small = shrink(rgb, short_side=SMALL_SHORT_SIDE)
    return Picture(
        rgb=rgb,
        luma=cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY),
        small_rgb=small,
        small_luma=cv2.cvtColor(small, cv2.COLOR_RGB2GRAY),
    )


def shrink(image: UInt8[np.ndarray, "h w c"], *, short_side: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Scale down, by area, to a short side of at most `short_side` pixels; never up."""
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller: UInt8[np.ndarray, "h2 w2 c"] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return smaller
