"""Frames become how light they are and how much of them is crushed to black or white."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from data_pipeline.signals.picture import Picture

DARK_LUMA, BRIGHT_LUMA = 8, 247


class Exposure:
    """Per frame: mean luma (0 to 255), and the shares (0 to 1) of pixels at most 8 and at least 247."""

    columns = ("luma", "dark_share", "bright_share")

    def update(self, picture: Picture) -> dict[str, float]:
        """The values of one more frame."""
        luma = picture.small_luma
        return {
            "luma": float(luma.mean()),
            "dark_share": float((luma <= DARK_LUMA).mean()),
            "bright_share": float((luma >= BRIGHT_LUMA).mean()),
        }


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`luma_mean` 0 to 255; `dark_share`, `bright_share` 0 to 1; `clipped_share` is their sum."""
    dark, bright = float(series["dark_share"].mean()), float(series["bright_share"].mean())
    return {
        "luma_mean": float(series["luma"].mean()),
        "dark_share": dark,
        "bright_share": bright,
        "clipped_share": dark + bright,
    }
