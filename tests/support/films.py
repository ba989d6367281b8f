"""Small films with known time stamps, tags and numbered frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

_BITS, _CELL = 10, 16
NUMBERED_SIZE = (32, _BITS * _CELL)
"""Rows and columns of a numbered frame."""


def write_film(
    path: Path,
    pictures: Iterable[Any],
    *,
    stamps: Sequence[int],
    time_base: Fraction,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> Path:
    """The pictures (`av.VideoFrame`) as one stream, each shown from its stamp on; `tags` are set on the encoder."""
    kept = iter(pictures)
    first = next(kept)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, first.format.name
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.codec_context.options = dict(options or {})
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for stamp, picture in zip(stamps, [first, *kept], strict=True):
            picture.pts, picture.time_base = stamp, time_base
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def numbered(number: int) -> Any:
    """A grey picture that carries its number, 0 to 1023, as ten cells of black and white."""
    rows, columns = NUMBERED_SIZE
    bits = [(number >> bit) & 1 for bit in range(_BITS)]
    luma = np.repeat(np.repeat(np.array([bits], np.uint8) * 219 + 16, rows, axis=0), _CELL, axis=1)
    plain = np.full((rows // 2, columns), 128, np.uint8)
    return av.VideoFrame.from_ndarray(np.concatenate([luma, plain]), format="yuv420p")


def number_of(image: np.ndarray) -> int:
    """The number that a picture of `numbered` carries, from RGB at its own size."""
    cells = image[image.shape[0] // 2, _CELL // 2 :: _CELL, 1] > 127
    return sum(int(bit) << place for place, bit in enumerate(cells))
