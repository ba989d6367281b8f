"""One decoded frame becomes the few small pictures that all signals share, so that each is made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import UInt8

ANALYSIS_SHORT_SIDE = 256
"""Frames are decoded to this short side: blur shows, cost stays low."""
SMALL_SHORT_SIDE = 144
"""Flow and cut detection work on this short side."""


@dataclass(frozen=True)
class Picture:
    """`rgb` is at the analysis size; the other planes are made when a signal first asks for them, and then kept.

    `seconds` counts from the video's first frame.
    """

    rgb: UInt8[np.ndarray, "h w 3"]
    seconds: float = 0.0

    @cached_property
    def luma(self) -> UInt8[np.ndarray, "h w"]:
        """Light, 0 to 255, at the analysis size."""
        return _grey(self.rgb)

    @cached_property
    def small_rgb(self) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Colours at a short side of at most 144."""
        return shrink(self.rgb, short_side=SMALL_SHORT_SIDE)

    @cached_property
    def small_luma(self) -> UInt8[np.ndarray, "h2 w2"]:
        """Light at a short side of at most 144."""
        return _grey(self.small_rgb)


def picture_of(rgb: UInt8[np.ndarray, "h w 3"], *, seconds: float = 0.0) -> Picture:
    """The shared pictures of one RGB frame, shown at `seconds`."""
    return Picture(rgb, seconds)


def shrink(image: UInt8[np.ndarray, "h w c"], *, short_side: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Scale down, by area, to a short side of at most `short_side` pixels; never up."""
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller: UInt8[np.ndarray, "h2 w2 c"] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return smaller


def _grey(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    luma: UInt8[np.ndarray, "h w"] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return luma
