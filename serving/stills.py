"""Small pictures of a video, taken while its frames pass by on their way into the encoder."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_THUMBNAIL_WIDTH = 512
_CELL_WIDTH = 320
_MOST_CELLS = 16


class Stills:
    """The middle frame and up to 16 frames from all over a video of `num_frames`; only they stay in memory, small."""

    def __init__(self, num_frames: int) -> None:
        self._middle = num_frames // 2
        cells = min(_MOST_CELLS, num_frames)
        self._chosen = {round(cell * (num_frames - 1) / max(1, cells - 1)) for cell in range(cells)}
        self._thumbnail: Image.Image | None = None
        self._cells: list[Image.Image] = []

    def watch(self, chunks: Iterator[UInt8[np.ndarray, "t h w 3"]]) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
        """The same chunks."""
        number = 0
        for chunk in chunks:
            for frame in chunk:
                if number == self._middle:
                    self._thumbnail = _small(frame, _THUMBNAIL_WIDTH)
                if number in self._chosen:
                    self._cells.append(_small(frame, _CELL_WIDTH))
                number += 1
            yield chunk

    def thumbnail(self) -> bytes:
        """The middle frame as WebP, at most 512 pixels wide."""
        assert self._thumbnail is not None, "the frames have passed"
        return _encoded(self._thumbnail, "WEBP", quality=80)

    def spritesheet(self) -> bytes:
        """The chosen frames as one JPEG: rows of equal cells, from left to right and from top to bottom."""
        width, height = self._cells[0].size
        columns = math.ceil(math.sqrt(len(self._cells)))
        sheet = Image.new("RGB", (columns * width, math.ceil(len(self._cells) / columns) * height))
        for number, cell in enumerate(self._cells):
            sheet.paste(cell, (number % columns * width, number // columns * height))
        return _encoded(sheet, "JPEG", quality=85)


def _small(frame: UInt8[np.ndarray, "h w 3"], width: int) -> Image.Image:
    picture = Image.fromarray(frame)
    picture.thumbnail((width, picture.height))
    return picture


def _encoded(picture: Image.Image, form: str, *, quality: int) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, quality=quality)
    return out.getvalue()
