"""Scores and rules become the clips worth looking at: near every threshold on both sides, and some by lot."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from data_pipeline.policy import Rule
from data_pipeline.stored import StoredClips

_BY_LOT = 0.25
"""Share of the chosen clips that are drawn from all, so that surprises far from any threshold are seen too."""


def choose(clips: StoredClips, rules: Mapping[str, Rule], *, count: int) -> list[str]:
    """Ids of at most `count` clips (that fill a bucket), in an order that tells nothing of their scores.

    Every threshold gets the same number below and above it, the nearest in rank first.
    """
    usable = np.flatnonzero(clips.scores["bucket_frames"] > 0)
    sides = [
        iter(side) for score, threshold in _thresholds(clips, rules) for side in _nearest(score, threshold, usable)
    ]
    chosen: dict[int, None] = {}
    near = round(count * (1 - _BY_LOT))
    while sides and len(chosen) < near:
        sides = [side for side in sides if _take_one(side, chosen)]
    ids = clips.clip_ids.to_pylist()
    for index in sorted(usable.tolist(), key=lambda index: _lot(ids[index])):
        if len(chosen) >= count:
            break
        chosen[index] = None
    return sorted((ids[index] for index in list(chosen)[:count]), key=lambda clip_id: _lot("shown", clip_id))


def _thresholds(clips: StoredClips, rules: Mapping[str, Rule]) -> Iterator[tuple[Float[np.ndarray, " n"], float]]:
    for rule in rules.values():
        for threshold in (rule.below, rule.above):
            if threshold is not None:
                yield clips.scores[rule.score], threshold


def _nearest(
    score: Float[np.ndarray, " n"], threshold: float, usable: Int[np.ndarray, " m"]
) -> tuple[list[int], list[int]]:
    """Clips below and above the threshold, the nearest first."""
    order = usable[np.argsort(score[usable], kind="stable")]
    order = order[~np.isnan(score[order])]
    split = int(np.searchsorted(score[order], threshold))
    return order[:split][::-1].tolist(), order[split:].tolist()


def _take_one(side: Iterator[int], chosen: dict[int, None]) -> bool:
    """The nearest clip of a side that is not chosen yet; False when the side has no more."""
    for index in side:
        if index not in chosen:
            chosen[index] = None
            return True
    return False


def _lot(*words: str) -> str:
    return hashlib.sha256("|".join(words).encode()).hexdigest()


def strip(frames: pa.Table, *, start_pts: int, stop_pts: int) -> list[bytes]:
    """The JPEG thumbnails of a span, from the measurements of its video."""
    stamps = frames.column("pts").to_numpy()
    inside = frames.filter(pa.array((stamps >= start_pts) & (stamps < stop_pts)))
    return [bytes(picture) for picture in inside.column("thumbnail").drop_null().to_pylist()]
