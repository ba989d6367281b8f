"""A span of a film becomes the few frames that the models see: spread evenly, decoded in one pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from data_pipeline.captions.frames import read_frames


def spread_frames(
    path: str | Path, *, start_seconds: float, stop_seconds: float, num_frames: int, short_side: int
) -> UInt8[np.ndarray, "t h w 3"]:
    """The frames on display in the middles of `num_frames` equal parts of a span, with a shorter side of at most
    `short_side` pixels. Raises MediaError when the span cannot be decoded or holds no frame."""
    length = (stop_seconds - start_seconds) / num_frames
    instants = [(number + 0.5) * length for number in range(num_frames)]
    found = read_frames(
        path, start_seconds=start_seconds, stop_seconds=stop_seconds, at={"labels": instants}, short_side=short_side
    )
    return np.stack(found["labels"])
