"""Honest measurements: accumulators over one decode pass, one file per signal, sliced into scores per clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from data_pipeline.signals import exposure, motion, palette, phash, picture, sharpness, views
from data_pipeline.signals.picture import Picture

Series = Mapping[str, Float[np.ndarray, " t"]]

INTEGER_COLUMNS = frozenset({"phash", *views.COLUMNS})
"""Columns that hold unsigned 64-bit integers; all others hold float32."""


class Accumulator(Protocol):
    """Turns one picture after the other into values per frame, under the names in `columns`."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    def update(self, picture: Picture) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Signal:
    """A measurement: `accumulator` runs in the decode pass, `score` turns a clip's slice of the series into numbers."""

    accumulator: Callable[[], Accumulator]
    score: Callable[[Series], dict[str, float]]


SIGNALS: dict[str, Signal] = {
    "motion": Signal(motion.Motion, motion.score),
    "sharpness": Signal(sharpness.Sharpness, sharpness.score),
    "exposure": Signal(exposure.Exposure, exposure.score),
    "palette": Signal(palette.Palette, palette.score),
    "phash": Signal(phash.PerceptualHash, phash.score),
    "views": Signal(views.Views, views.score),
}


def score_names() -> frozenset[str]:
    """Every score that the signals give a clip."""
    names: set[str] = set()
    for signal in SIGNALS.values():
        columns = ("seconds", *signal.accumulator().columns)
        names.update(signal.score({column: np.arange(2.0) for column in columns}))
    return frozenset(names)


CODE = (picture, motion, sharpness, exposure, palette, phash, views)
"""The modules whose source is part of the signals' fingerprint."""
