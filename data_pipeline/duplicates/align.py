"""Two clips' hash sequences become a match, or not: the time offset at which pictures, movement and light all agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipeline.duplicates.hashes import TICKS_PER_SECOND, ClipHashes
from data_pipeline.recipe import HashSettings
from data_pipeline.signals.phash import HASH_BITS

_FEWEST_SAMPLES, _FEWEST_TICKS = 3, 6
_UNRELATED_BITS = HASH_BITS / 2
_PER_BIT = 1 / 12  # what a bit that differs takes from the agreement: found on copies and on other moments
_FROZEN = 0.001  # shares of the short side per second: less movement than this is only noise


@dataclass(frozen=True)
class Match:
    """`similarity`: 1 for equal pictures, 0 for pictures as unlike as any two; on average over the overlap at
    `offset_seconds`: what the left clip shows at t, the right one shows at t + offset."""

    similarity: float
    offset_seconds: float


@dataclass(frozen=True)
class _Offsets:
    """For each offset in ticks: how long the clips overlap, bits that differ on average, share of alike samples."""

    offsets: Int[np.ndarray, " n"]
    overlap: Int[np.ndarray, " n"]
    bits: Float[np.ndarray, " n"]
    share: Float[np.ndarray, " n"]
    samples: Int[np.ndarray, " n"]


def align(left: ClipHashes, right: ClipHashes, *, view: int, settings: HashSettings) -> Match | None:
    """The best alignment of a view of `left` with the whole frames of `right`; None when they do not agree.

    Alike pictures are not enough: another moment before a standing camera looks alike too. In a copy the movement and
    the changes of light go together with the original's. Where nothing moves, the pictures alone decide, more strictly.
    """
    probes = left.probes[:, view]
    telling = probes != 0
    if not telling.any():
        return None
    found = _compare(probes[telling], left.probe_ticks[telling], left, right, max_bits=settings.max_bits)
    shorter = min(len(left.dense), len(right.dense))
    fit = (found.samples >= _FEWEST_SAMPLES) & (found.overlap >= settings.min_overlap * shorter)
    fit &= found.share >= settings.min_share
    if not fit.any():
        return None
    if min(left.movement_per_second(), right.movement_per_second()) < _FROZEN:
        agreement, least = 1 - 2 * found.bits / max(1, settings.max_bits), 0.0
    else:
        together = (correlations(left.movement, right.movement) + correlations(left.light, right.light)) / 2
        agreement, least = together - _PER_BIT * found.bits, settings.min_agreement
    agreement = np.where(fit, agreement, -np.inf)
    best = int(agreement.argmax())
    if agreement[best] < least:
        return None
    similarity = max(0.0, 1 - float(found.bits[best]) / _UNRELATED_BITS)
    return Match(round(similarity, 6), round(int(found.offsets[best]) / TICKS_PER_SECOND, 6))


def _compare(probes: np.ndarray, ticks: np.ndarray, left: ClipHashes, right: ClipHashes, *, max_bits: int) -> _Offsets:
    """Every offset at once: each sample is compared at its place, and a tick beside it, as sampling may differ."""
    ours, theirs = len(left.dense), len(right.dense)
    offsets = np.arange(1 - ours, theirs)
    bits = np.bitwise_count(probes[:, None] ^ right.dense[None, :]).astype(np.float32)
    bits[:, right.dense == 0] = np.inf
    padded = np.pad(bits, ((0, 0), (1, 1)), constant_values=np.inf)
    near = np.minimum(np.minimum(padded[:, :-2], padded[:, 2:]), padded[:, 1:-1])
    places = ticks[:, None] + offsets[None, :]
    inside = (places >= 0) & (places < theirs)
    at = near[np.arange(len(probes))[:, None], np.clip(places, 0, theirs - 1)]
    compared: Bool[np.ndarray, "samples offsets"] = inside & np.isfinite(at)
    samples = compared.sum(axis=0)
    counted = np.where(compared, at, 0)
    return _Offsets(
        offsets=offsets,
        overlap=np.minimum(ours, theirs - offsets) - np.maximum(0, -offsets),
        bits=counted.sum(axis=0) / np.maximum(samples, 1),
        share=((counted <= max_bits) & compared).sum(axis=0) / np.maximum(samples, 1),
        samples=samples,
    )


def correlations(left: Float[np.ndarray, " n"], right: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n+m-1"]:
    """Pearson's correlation of left[i] with right[i + offset] for offsets from 1 - n to m - 1, over what overlaps.

    The first value of each counts for nothing: it compares with a frame outside the clip. 0 where there is too little.
    """
    x, y = left.astype(np.float64), right.astype(np.float64)
    x, y = x - x.mean(), y - y.mean()
    weight_x, weight_y = np.ones(len(x)), np.ones(len(y))
    weight_x[0] = weight_y[0] = x[0] = y[0] = 0
    count = np.correlate(weight_y, weight_x, "full")
    sum_x, sum_y = np.correlate(weight_y, x, "full"), np.correlate(y, weight_x, "full")
    least = np.maximum(count, 1)
    spread_x = np.correlate(weight_y, x * x, "full") - sum_x**2 / least
    spread_y = np.correlate(y * y, weight_x, "full") - sum_y**2 / least
    shared = np.correlate(y, x, "full") - sum_x * sum_y / least
    spread = np.sqrt(np.maximum(spread_x, 0) * np.maximum(spread_y, 0))
    known = (count >= _FEWEST_TICKS) & (spread > 1e-12)
    result: Float[np.ndarray, " n+m-1"] = np.where(known, shared / np.where(known, spread, 1), 0.0)
    return result
