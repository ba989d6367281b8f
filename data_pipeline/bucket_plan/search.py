"""Footage and limits become the K buckets of least cost: several starts, each improved until no change of one helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_pipeline.bucket_plan.cost import Cost, Shape
from data_pipeline.bucket_plan.footage import Footage
from data_pipeline.bucket_plan.waste import Limits, Size, losses
from data_pipeline.buckets import Weights

_NEAREST = 12
_MULTIPLE = 16
_LEVELS = (1.0, 0.5, 0.25, 0.125)
"""Areas that are tried, in shares of the largest: sources smaller than it want smaller buckets."""


@dataclass(frozen=True)
class Space:
    """What may be chosen: shapes (rows, columns), frames, and the video tokens that a clip may have at most."""

    shapes: tuple[Shape, ...]
    frames: tuple[int, ...]
    allows: Callable[[Size], bool]

    def sizes(self) -> list[Size]:
        """All buckets that there are."""
        return [size for frames in self.frames for shape in self.shapes if self.allows(size := (frames, *shape))]


def candidate_shapes(*, largest: float, aspects: tuple[float, float]) -> tuple[Shape, ...]:
    """For each area level and number of rows the most columns, in multiples of 16, whose aspect ratio (columns / rows)
    lies within `aspects`."""
    found = set()
    for level in _LEVELS:
        area = level * largest
        low, high = (math.sqrt(area / aspect) for aspect in reversed(aspects))
        for rows in range(_MULTIPLE * max(1, int(low // _MULTIPLE)), int(high) + _MULTIPLE, _MULTIPLE):
            columns = int(area / rows) // _MULTIPLE * _MULTIPLE
            if columns and aspects[0] - 1e-9 <= columns / rows <= aspects[1] + 1e-9:
                found.add((rows, columns))
    return tuple(sorted(found))


def search(footage: Footage, space: Space, limits: Limits, weights: Weights, *, count: int) -> list[Size]:
    """At most `count` buckets of the space, sorted; the same for the same arguments. No proven optimum, but one that no
    change of one bucket, nor of one shape, improves (tests compare it with all lists there are, on small spaces)."""
    cost = Cost(footage, space.shapes, limits, weights)
    # For film of these sizes only shapes that suit one of them best, or nearly.
    order = np.argsort(cost.per_frame, axis=0, kind="stable")[:_NEAREST]
    near = [cost.shapes[index] for index in np.unique(order)]

    def exact(buckets: frozenset[Size]) -> float:
        return losses(footage, sorted(buckets), limits).cost(weights)

    best: frozenset[Size] = frozenset()
    for num_shapes in range(1, min(count, len(near)) + 1):
        found = _improved(_start(cost, footage, space, num_shapes=num_shapes, count=count), near, space, cost, count)
        if not best or exact(found) < exact(best) - 1e-12:
            best = found
    return sorted(best)


def _improved(
    buckets: frozenset[Size], shapes: Sequence[Shape], space: Space, cost: Cost, count: int
) -> frozenset[Size]:
    """Changes, each time the best one of a kind, until none of any kind helps."""
    while True:
        before = buckets
        for kind in (_more, _exchanged, _reshaped):
            changed = min(
                kind(buckets, shapes, space, count), key=lambda one: (cost.of(one), sorted(one)), default=buckets
            )
            buckets = changed if cost.of(changed) < cost.of(buckets) - 1e-12 else buckets
        if buckets == before:
            return buckets


def _fresh(buckets: frozenset[Size], shapes: Sequence[Shape], space: Space) -> list[Size]:
    """What shares its shape, or its length, with a bucket that is there."""
    used, lengths = {size[1:] for size in buckets}, {size[0] for size in buckets}
    near = {(frames, *shape) for frames in space.frames for shape in used}
    near |= {(frames, *shape) for frames in lengths for shape in shapes}
    return sorted(size for size in near - buckets if space.allows(size))


def _more(buckets: frozenset[Size], shapes: Sequence[Shape], space: Space, count: int) -> Iterable[frozenset[Size]]:
    """One bucket more, or one less."""
    if len(buckets) < count:
        yield from (buckets | {size} for size in _fresh(buckets, shapes, space))
    yield from (rest for size in sorted(buckets) if (rest := buckets - {size}))


def _exchanged(buckets: frozenset[Size], shapes: Sequence[Shape], space: Space, _: int) -> Iterable[frozenset[Size]]:
    """One bucket for another."""
    fresh = _fresh(buckets, shapes, space)
    yield from ((buckets - {old}) | {size} for old in sorted(buckets) for size in fresh)


def _reshaped(buckets: frozenset[Size], shapes: Sequence[Shape], space: Space, _: int) -> Iterable[frozenset[Size]]:
    """All buckets of one shape in another one."""
    for shape in sorted({size[1:] for size in buckets}):
        rest = frozenset(size for size in buckets if size[1:] != shape)
        moving = [size[0] for size in buckets if size[1:] == shape]
        for other in shapes:
            moved = frozenset((frames, *other) for frames in moving)
            if all(space.allows(size) for size in moved):
                yield rest | moved


def _start(cost: Cost, footage: Footage, space: Space, *, num_shapes: int, count: int) -> frozenset[Size]:
    """Shapes that are apart for the sizes there are, and for each the longest lengths, halved and halved again."""
    chosen = _medians(cost.per_frame * (footage.counts @ footage.instants)[None], num_shapes)
    buckets: set[Size] = set()
    for round_ in range(-(-count // num_shapes)):
        for index in chosen:
            fitting = [frames for frames in space.frames if space.allows((frames, *space.shapes[index]))]
            wanted = [frames for frames in fitting if frames <= fitting[-1] / 2**round_] if fitting else []
            if wanted and len(buckets) < count:
                buckets.add((wanted[-1], *space.shapes[index]))
    return frozenset(buckets)


def _medians(shares: Float[np.ndarray, "s n"], number: int) -> Sequence[int]:
    """Rows of least cost together, each column served by its best one: greedy."""
    chosen: list[int] = []
    served = np.full(shares.shape[1], np.inf)
    for _ in range(number):
        index = int(np.argmin(np.minimum(shares, served).sum(axis=1)))
        chosen.append(index)
        served = np.minimum(served, shares[index])
    return list(dict.fromkeys(chosen))
