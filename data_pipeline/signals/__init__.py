"""Honest measurements: accumulators over one decode pass, one file per signal, sliced into scores per clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from jaxtyping import Float

from data_pipeline.signals import (
    bitrate,
    blockiness,
    borders,
    exposure,
    flashing,
    motion,
    palette,
    phash,
    picture,
    sharpness,
    still,
    transition,
    views,
)
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
    """A measurement: `accumulator` runs in the decode pass (None: others measure what it takes), `score` turns a clip's
    slice of the series into numbers."""

    accumulator: Callable[[], Accumulator] | None
    score: Callable[[Series], dict[str, float]]


SIGNALS: dict[str, Signal] = {
    "motion": Signal(motion.Motion, motion.score),
    "still": Signal(still.Still, still.score),
    "transition": Signal(None, transition.score),
    "flashing": Signal(flashing.Flashing, flashing.score),
    "borders": Signal(borders.Borders, borders.score),
    "sharpness": Signal(sharpness.Sharpness, sharpness.score),
    "blockiness": Signal(blockiness.Blockiness, blockiness.score),
    "bitrate": Signal(bitrate.Bitrate, bitrate.score),
    "exposure": Signal(exposure.Exposure, exposure.score),
    "palette": Signal(palette.Palette, palette.score),
    "phash": Signal(phash.PerceptualHash, phash.score),
    "views": Signal(views.Views, views.score),
}


CLOSER_SCORES: dict[str, tuple[str, ...]] = {
    "text": ("overlay_text_share", "scene_text_share", "text_lines"),
    "aesthetics": ("aesthetic_score",),
}
"""Scores of the signals that look at a few large frames with a model, where the recipe switches them on."""


def accumulators() -> dict[str, Accumulator]:
    """New ones, of the signals that have one."""
    return {name: signal.accumulator() for name, signal in SIGNALS.items() if signal.accumulator is not None}


@cache
def signal_scores() -> Mapping[str, tuple[str, ...]]:
    """The names of the scores of each signal of the decode pass."""
    columns = {column for accumulator in accumulators().values() for column in accumulator.columns}
    series = {column: np.arange(2.0) for column in ("seconds", "dissolve", *columns)}
    return {name: tuple(sorted(signal.score(series))) for name, signal in SIGNALS.items()}


def score_names() -> frozenset[str]:
    """Every score that the signals give a clip."""
    return frozenset(name for names in signal_scores().values() for name in names)


CODE = (
    picture,
    motion,
    still,
    flashing,
    borders,
    sharpness,
    blockiness,
    bitrate,
    exposure,
    palette,
    phash,
    views,
)
"""The modules whose source is part of the signals' fingerprint."""
