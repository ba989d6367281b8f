"""The bins that others fix beforehand, for comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cogvideox.variants import Variant
from data_pipeline.bucket_plan.search import Space
from data_pipeline.bucket_plan.waste import Size

ASPECTS = (9 / 16, 3 / 4, 1.0, 4 / 3, 16 / 9)
"""Columns / rows of the bins of Cosmos' curator."""
_MULTIPLE = 16


def native(variant: Variant, frames: Sequence[int]) -> list[Size]:
    """The model's own size and length alone, as its published loader takes every clip."""
    longest = max((length for length in frames if length <= variant.num_frames), default=frames[0])
    return [(longest, variant.height, variant.width)]


def aspect_bins(space: Space, frames: Sequence[int], *, areas: Sequence[float], lengths: int = 2) -> list[Size]:
    """Five aspect ratios, each with every area, at the greatest length and, with `lengths` of 2, at half of it too."""
    chosen = {
        frames[-1],
        *([max(length for length in frames if length <= max(frames[0], frames[-1] / 2))] * (lengths - 1)),
    }
    found = set()
    for area in areas:
        for aspect in ASPECTS:
            rows = max(1, round(math.sqrt(area / aspect) / _MULTIPLE)) * _MULTIPLE
            columns = max(1, math.floor(area / rows / _MULTIPLE)) * _MULTIPLE
            found |= {(length, rows, columns) for length in chosen}
    return sorted(size for size in found if space.allows(size))
