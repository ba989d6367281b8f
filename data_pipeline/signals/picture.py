"""One decoded frame becomes the few small pictures that all signals share, so that each is made once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from groundwork import media
from groundwork.planes import planes_of

ANALYSIS_SHORT_SIDE = 256
"""Frames are decoded to this short side: blur shows, cost stays low."""
SMALL_SHORT_SIDE = 144
"""Flow and cut detection work on this short side."""
TINY_SHORT_SIDE = 72
"""What changes as a whole (blends, flashes) is seen at this short side."""
_QUICK = cv2.INTER_LINEAR  # up to a half it leaves out no pixel, at a tenth of the cost of areas


@dataclass(frozen=True)
class Picture:
    """A frame at the analysis size; its smaller pictures are made when a signal first asks for them, and then kept."""

    frame: media.SmallFrame

    @property
    def seconds(self) -> float:
        """When the frame is shown."""
        return self.frame.seconds

    @property
    def luma(self) -> UInt8[np.ndarray, "h w"]:
        """Light, 0 to 255, at the analysis size."""
        return self.frame.planes.luma

    @cached_property
    def small_luma(self) -> UInt8[np.ndarray, "h2 w2"]:
        """Light at a short side of at most 144."""
        return shrink(self.luma, short_side=SMALL_SHORT_SIDE, interpolation=_QUICK)

    @cached_property
    def small_rgb(self) -> UInt8[np.ndarray, "h2 w2 3"]:
        """Colours at a short side of at most 144."""
        return self.frame.planes.rgb(self.small_luma)

    @cached_property
    def tiny_luma(self) -> Float32[np.ndarray, "h3 w3"]:
        """Light, 0 to 255, at a short side of at most 72."""
        return shrink(self.small_luma, short_side=TINY_SHORT_SIDE, interpolation=_QUICK).astype(np.float32)

    def make_planes(self) -> None:
        """Make what every pass needs now, so that its cost is not counted to the signal that happens to ask first."""
        _ = self.small_rgb, self.tiny_luma

    @property
    def coded_luma(self) -> UInt8[np.ndarray, "h0 w0"]:
        """Light as it is coded, at full size; that of the analysis size where the decoder's picture was let go."""
        return self.luma if self.frame.native is None else media.native_luma(self.frame)


class Sampling:
    """Which frames are looked at: the first one of every `1 / per_second` seconds of film.

    A rule without memory, so that parts of a film that are measured side by side agree with the whole.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._slot = -1

    def due(self, picture: Picture) -> bool:
        """Whether this frame, the next one, is looked at."""
        slot, self._slot = self._slot, int(picture.seconds * self._per_second + 1e-4)
        return slot != self._slot


def picture_of(rgb: UInt8[np.ndarray, "h w 3"], *, seconds: float = 0.0) -> Picture:
    """The shared pictures of an RGB image that comes from no file."""
    return Picture(media.SmallFrame(pts=0, seconds=seconds, planes=planes_of(rgb)))


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
