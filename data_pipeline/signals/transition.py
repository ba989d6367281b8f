"""Frames become whether one picture slowly turns into another there: the dissolves and fades inside a clip."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float


def score(series: Mapping[str, Float[np.ndarray, " t"]]) -> dict[str, float]:
    """`transition_score`: how well (0 to 1) the passage of the film that looks most like a dissolve, or a fade, and
    reaches into the clip follows the law of mixed pictures (see `data_pipeline.dissolves`); 0: there is none."""
    return {"transition_score": float(series["dissolve"].max(initial=0.0))}
