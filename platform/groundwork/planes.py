"""A decoder's picture becomes small planes of light and colour: what is measured on, and the way to RGB from there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from av.video.reformatter import Colorspace
from jaxtyping import Float32, UInt8

from groundwork import colour

# What red and blue weigh in the light: ITU-R BT.601-7, BT.709-6, BT.2020-2, FCC and SMPTE ST 240.
_WEIGHTS = {
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.BT2020: (0.2627, 0.0593),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.SMPTE240M: (0.212, 0.087),
}


@dataclass(frozen=True)
class Planes:
    """Y'CbCr of full range: `luma` 0 to 255, `blue` and `red` (Cb, Cr) around 128, at half its size as a rule."""

    luma: UInt8[np.ndarray, "h w"]
    blue: UInt8[np.ndarray, "h2 w2"]
    red: UInt8[np.ndarray, "h2 w2"]
    matrix: Colorspace = Colorspace.ITU601

    def rgb(self, luma: UInt8[np.ndarray, "h3 w3"]) -> UInt8[np.ndarray, "h3 w3 3"]:
        """The colours at the size of `luma`, a scaled copy of this one's."""
        size = luma.shape[1], luma.shape[0]
        blue, red = (cv2.resize(plane, size, interpolation=cv2.INTER_LINEAR) for plane in (self.blue, self.red))
        rgb: UInt8[np.ndarray, "h3 w3 3"] = cv2.transform(cv2.merge([luma, blue, red]), _to_rgb(self.matrix))
        return rgb


def small_planes(picture: Any, *, height: int, width: int) -> Planes:
    """Planes of `height` x `width`, upright, of a decoded picture: standard range straight from the scaler, what is
    high dynamic range, of a wide gamut or transparent by way of `colour.to_rgb`."""
    colours = colour.colours_of(picture)
    turns = (int(picture.rotation) // 90) % 4
    if not colours.ordinary or colours.matrix is None:
        rgb = colour.to_rgb(picture, height=height, width=width)
        return planes_of(np.ascontiguousarray(np.rot90(rgb, turns)))
    small = colour.reformat(picture, form="yuv420p", height=height, width=width, full_range=True)
    luma, blue, red = (_upright(plane, turns) for plane in small.planes)
    return Planes(luma, blue, red, colours.matrix)


def planes_of(rgb: UInt8[np.ndarray, "h w 3"]) -> Planes:
    """The planes of an RGB image, at its size."""
    luma, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    return Planes(luma, blue, red)


def _upright(plane: Any, turns: int) -> UInt8[np.ndarray, "h w"]:
    """A copy, as rows of the scaler's are longer than the picture."""
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    return np.ascontiguousarray(np.rot90(rows, turns))


@lru_cache(maxsize=8)
def _to_rgb(matrix: Colorspace) -> Float32[np.ndarray, "3 4"]:
    red, blue = _WEIGHTS[matrix]
    green = 1 - red - blue
    from_red, from_blue = 2 * (1 - red), 2 * (1 - blue)
    rows = np.array([[1, 0, from_red], [1, -from_blue * blue / green, -from_red * red / green], [1, from_blue, 0]])
    return np.column_stack([rows, -128 * rows[:, 1:].sum(axis=1)]).astype(np.float32)
