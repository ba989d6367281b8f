"""Gradient norms of the past become the largest norm that the next update may have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

_DECAY = 0.99
_FIRST_UPDATES = 20  # before there is a mean to speak of, only the fixed clip holds


@dataclass
class GradientGuard:
    """A moving mean and variance of the norm: one beyond mean + `sigmas` deviations is scaled down to that bound.

    The idea is Open-Sora-Plan 1.5's adaptive clipping. What enters the mean is the norm after scaling, so that a spike
    does not open the door for the next one. `sigmas` None: only `clip` holds. Every worker keeps the same numbers.
    """

    clip: float
    sigmas: float | None
    mean: float = 0.0
    variance: float = 0.0
    updates: int = 0

    @property
    def bound(self) -> float:
        """Largest norm of the next update."""
        if self.sigmas is None or self.updates < _FIRST_UPDATES:
            return self.clip
        return min(self.clip, self.mean + self.sigmas * math.sqrt(self.variance))

    def add(self, norm: float) -> None:
        """Take note of an update's norm before it was scaled."""
        norm, decay = min(norm, self.bound), min(_DECAY, self.updates / (self.updates + 1))
        gap = norm - self.mean
        self.mean += (1 - decay) * gap
        self.variance = decay * (self.variance + (1 - decay) * gap * gap)
        self.updates += 1

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"mean": self.mean, "variance": self.variance, "updates": self.updates}

    def put_in(self, state: Mapping[str, float]) -> None:
        """Take up what `state` gave."""
        self.mean, self.variance, self.updates = state["mean"], state["variance"], int(state["updates"])
