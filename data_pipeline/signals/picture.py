"""One decoded frame becomes the few small pictures that all signals share, so that each is made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from groundwork import media

ANALYSIS_SHORT_SIDE = 256
"""Frames are decoded to this short side: blur shows, cost stays low."""
SMALL_SHORT_SIDE = 144
"""Flow and cut detection work on this short side."""
TINY_SHORT_SIDE = 72
"""What changes as a whole (blends, flashes) is seen at this short side."""
_QUICK = cv2.INTER_LINEAR  # up to a half it leaves out no pixel, at a tenth of the cost of areas


@dataclass(frozen=True)
class Picture:
    """A frame at the analysis size; its planes are made when a signal first asks for them, and then kept."""

    frame: media.Frame

    @property
    def rgb(self) -> UInt8[np.ndarray, "h w 3"]:
        """Colours at the analysis size."""
        return self.frame.image

    @property
    def seconds(self) -> float:
        """When the frame is shown."""
        return self.frame.seconds

    @cached_property
    def luma(self) -> UInt8[np.ndarray, "h w"]:
        """Light, 0 to 255, at the analysis size."""
        return _grey(self.rgb)

    @cached_property
    def small_rgb(self) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Colours at a short side of at most 144."""
        return shrink(self.rgb, short_side=SMALL_SHORT_SIDE, interpolation=_QUICK)

    @cached_property
    def small_luma(self) -> UInt8[np.ndarray, "h2 w2"]:
        """Light at a short side of at most 144."""
        return _grey(self.small_rgb)

    @cached_property
    def tiny_luma(self) -> Float32[np.ndarray, "h3 w3"]:
        """Light, 0 to 255, at a short side of at most 72."""
        return shrink(self.small_luma, short_side=TINY_SHORT_SIDE, interpolation=_QUICK).astype(np.float32)

    def make_planes(self) -> None:
        """Make what every pass needs now, so that its cost is not counted to the signal that happens to ask first."""
        _ = self.luma, self.tiny_luma

    @property
    def coded_luma(self) -> UInt8[np.ndarray, "h0 w0"]:
        """Light as it is coded, at full size; that of the analysis size where the decoder's picture was let go."""
        return self.luma if self.frame.native is None else media.native_luma(self.frame)


def picture_of(rgb: UInt8[np.ndarray, "h w 3"], *, seconds: float = 0.0) -> Picture:
    """The shared pictures of an RGB image that comes from no file."""
    return Picture(media.Frame(pts=0, seconds=seconds, image=rgb))


def shrink(
    image: UInt8[np.ndarray, "h w *c"], *, short_side: int, interpolation: int = cv2.INTER_AREA
) -> UInt8[np.ndarray, "h2 w2 *c"]:
    """Scale down, by area if not said otherwise, to a short side of at most `short_side` pixels; never up."""
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller: UInt8[np.ndarray, "h2 w2 *c"] = cv2.resize(image, size, interpolation=interpolation)
    return smaller


def _grey(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w"]:
    luma: UInt8[np.ndarray, "h w"] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return luma
