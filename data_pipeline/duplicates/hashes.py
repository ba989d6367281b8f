"""A clip's per-frame measurements become the hash sequences by which its copies are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int, UInt64

from data_pipeline.signals import motion, views

TICKS_PER_SECOND = 12
"""Time is counted in steps of this size: two copies sampled differently are at most half a step apart."""
_FEWEST_BITS = 12
NUM_VIEWS = 1 + len(views.VIEWS)
HASH_COLUMNS = {
    "hash_dense": pa.list_(pa.uint64()),
    "hash_probes": pa.list_(pa.uint64()),
    "hash_ticks": pa.list_(pa.int64()),
    "hash_movement": pa.list_(pa.float32()),
    "hash_light": pa.list_(pa.float32()),
}
"""A clip's `ClipHashes` as columns of a table; the probes row by row."""
FRAMES = ("hash_dense", "hash_probes")
"""Those of them by which candidates are found; all of them are needed only of candidates."""


@dataclass(frozen=True)
class ClipHashes:
    """All that the search for copies needs of a clip. A hash of 0 says nothing and is never matched.

    `dense`: of the whole frame shown at each tick. `probes`: of each view (the first is the whole frame) of some
    frames, at `probe_ticks`. `movement`, `light`: how far the picture moved (shares of its short side) and how much
    brighter it became (0 to 255) since the tick before, smoothed over three.
    """

    dense: UInt64[np.ndarray, " ticks"]
    probes: UInt64[np.ndarray, "samples views"]
    probe_ticks: Int[np.ndarray, " samples"]
    movement: Float[np.ndarray, " ticks"]
    light: Float[np.ndarray, " ticks"]

    def columns(self) -> dict[str, np.ndarray]:
        """One array for each of HASH_COLUMNS."""
        arrays = (self.dense, self.probes.ravel(), self.probe_ticks, self.movement, self.light)
        return dict(zip(HASH_COLUMNS, arrays, strict=True))

    @classmethod
    def from_row(cls, table: pa.Table, row: int) -> ClipHashes:
        """The reverse of `columns`, for one row of a table; nothing is copied."""
        dense, probes, ticks, movement, light = (table.column(name)[row].values.to_numpy() for name in HASH_COLUMNS)
        return cls(dense, probes.reshape(-1, NUM_VIEWS), ticks, movement, light)

    def movement_per_second(self) -> float:
        """On average, in shares of the short side."""
        return float(self.movement[1:].mean()) * TICKS_PER_SECOND if len(self.movement) > 1 else 0.0


def clip_hashes(series: Mapping[str, np.ndarray]) -> ClipHashes:
    """Hash sequences of a clip from its slice of the video's series: seconds, phash, the views, flow and luma."""
    seconds = series["seconds"] - series["seconds"][0]
    length = float(seconds[-1]) + (float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0)
    instants = np.arange(max(1, int(np.ceil(length * TICKS_PER_SECOND - 1e-6)))) / TICKS_PER_SECOND
    shown = np.searchsorted(seconds, instants + 1e-6, side="right") - 1
    looks = motion.looks(series)
    way = np.cumsum(series["flow"][looks], dtype=np.float64)
    moved = np.interp(instants, seconds[looks], way) if looks.any() else np.zeros(len(instants))
    light = np.interp(instants, seconds, series["luma"])
    whole = series["phash"].astype(np.uint64)
    parts = np.stack([series[name].astype(np.uint64) for name in views.COLUMNS], axis=1)
    sampled = np.flatnonzero(parts.any(axis=1))
    return ClipHashes(
        dense=_telling(whole[shown]),
        probes=_telling(np.concatenate([whole[sampled, None], parts[sampled]], axis=1)),
        probe_ticks=np.rint(seconds[sampled] * TICKS_PER_SECOND).astype(np.int64),
        movement=_change(moved),
        light=_change(light),
    )


def _change(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    steps = np.diff(values, prepend=values[0])
    return np.convolve(steps, np.full(3, 1 / 3), "full")[1:-1].astype(np.float32)


def _telling(hashes: UInt64[np.ndarray, " *n"]) -> UInt64[np.ndarray, " *n"]:
    """0 in place of hashes of nearly flat pictures: too few frequencies stand out to tell one from another."""
    return np.where(np.bitwise_count(hashes) < _FEWEST_BITS, np.uint64(0), hashes)
