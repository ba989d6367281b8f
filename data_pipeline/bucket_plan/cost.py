"""The weighted losses of lists of buckets, cheap to ask for thousands: `waste.losses`, but for one thing, that a shot
keeps its first shape to its end."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from data_pipeline.bucket_plan.footage import Footage
from data_pipeline.bucket_plan.waste import Limits, Size, cuts
from data_pipeline.buckets import Weights, shape_losses

Shape = tuple[int, int]


class Cost:
    """`of(buckets)`: their cost on this footage. Shapes and lengths are weighed once, lists are sums of them."""

    def __init__(self, footage: Footage, shapes: Iterable[Shape], limits: Limits, weights: Weights) -> None:
        self._footage, self._limits, self._weights = footage, limits, weights
        self.shapes = list(shapes)
        self._number = {shape: index for index, shape in enumerate(self.shapes)}
        rows, columns = (np.array(side, float)[:, None] for side in zip(*self.shapes, strict=True))
        own = shape_losses(
            rows, columns, height=footage.heights * 1.0, width=footage.widths * 1.0, largest=limits.largest
        )
        self._preference: Float[np.ndarray, "s n"] = np.round(own.cost(), 6)
        self.per_frame: Float[np.ndarray, "s n"] = own.cost(weights)
        """What a frame of each size loses in each shape."""
        self._worth, self._total = footage.worth(limits.largest), footage.total(limits.largest)
        self._dropped = np.cumsum(footage.counts * footage.instants, axis=1)
        self._within = lru_cache(maxsize=20_000)(self._within_once)
        self._known: dict[frozenset[Size], float] = {}

    def of(self, buckets: frozenset[Size]) -> float:
        """The cost, in shares of all pixels; infinite for no buckets."""
        if buckets not in self._known:
            self._known[buckets] = self._weigh(buckets) if buckets else math.inf
        return self._known[buckets]

    def _weigh(self, buckets: frozenset[Size]) -> float:
        by_shape: dict[Shape, tuple[int, ...]] = {}
        for frames, height, width in sorted(buckets, reverse=True):
            by_shape[height, width] = (*by_shape.get((height, width), ()), frames)
        shapes = sorted(by_shape, key=lambda shape: (-shape[0] * shape[1], shape))
        shortest = sorted({lengths[-1] for lengths in by_shape.values()})
        edges = np.searchsorted(self._footage.instants, [*shortest, np.iinfo(int).max])
        cost = self._weights.dropped * float(self._worth @ self._dropped[:, edges[0] - 1]) if edges[0] else 0.0
        for least, low, high in zip(shortest, edges[:-1], edges[1:], strict=True):
            if low == high:
                continue
            open_ = [(self._number[shape], by_shape[shape]) for shape in shapes if by_shape[shape][-1] <= least]
            numbers = [number for number, _ in open_]
            best: Int[np.ndarray, " n"] = np.argmin(self._preference[numbers], axis=0)
            for place, (number, lengths) in enumerate(open_):
                mine = best == place
                used, given_up, padded = self._within(lengths, int(low), int(high))
                height, width = self.shapes[number]
                cost += float((used * self.per_frame[number] + given_up + height * width * padded) @ mine)
        return cost / self._total

    def _within_once(self, lengths: tuple[int, ...], low: int, high: int) -> tuple[np.ndarray, ...]:
        """For each size, over shots with so many instants: frames used; cost of what is dropped and shortened; frames'
        worth of padding, weighted."""
        footage, weights = self._footage, self._weights
        counts, instants = footage.counts[:, low:high], footage.instants[low:high]
        cut = cuts(lengths, self._limits.frames, self._limits.patch_frames, int(footage.instants[-1]))
        used = counts @ cut["used"][instants]
        given_up = weights.dropped * (counts @ instants - used) + weights.shortened * (
            counts @ cut["shortened"][instants]
        )
        return used, self._worth * given_up, weights.padded * (counts @ cut["padded"][instants])
