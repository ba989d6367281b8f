"""Frames become how many bits the coder spent on them: too few, and what looks like a picture is a guess."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from data_pipeline.signals.picture import Picture


class Bitrate:
    """Per frame: `coded_bits`, bits in the file per pixel of full size; 0 where the container does not say."""

    columns = ("coded_bits",)

    def update(self, picture: Picture) -> dict[str, float]:
        """The value of one more frame."""
        native = picture.frame.native
        pixels = picture.luma.size if native is None else native.width * native.height
        return {"coded_bits": 8 * picture.frame.coded_bytes / pixels}


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`bits_per_pixel`: mean over the frames. Open-Sora 2.0 rejects below 0.02; codecs later than H.264 need less."""
    return {"bits_per_pixel": float(series["coded_bits"].mean())}
