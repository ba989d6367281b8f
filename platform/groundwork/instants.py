"""A start, a rate and a count become instants; time stamps say, without rounding, which frame is shown at each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

_LARGEST_ROUNDING = Fraction(1, 1000)
_BROADCAST = tuple(Fraction(1000 * rate, 1001) for rate in (24, 30, 60, 120))


def exact_rate(fps: float) -> Fraction:
    """The rate that is meant: 23.976, 29.97, 59.94 and 119.88 are broadcast rates, others what they say."""
    for rate in _BROADCAST:
        if abs(fps - float(rate)) < 2e-3:
            return rate
    return Fraction(fps).limit_denominator(1001)


@dataclass(frozen=True)
class Instants:
    """`start_pts` + i / `rate`, in units of `time_base` seconds.

    Containers round time stamps to whole units, so the start and a frame may each be off by half of one: a frame that
    begins at most a unit after an instant, and never more than a millisecond, counts as shown there. Otherwise every
    second frame of 30 a second would be 0, 1, 4, 6, 7 in Matroska, which counts milliseconds.
    """

    start_pts: int
    time_base: Fraction
    rate: Fraction

    def before(self, pts: int) -> int:
        """How many instants pass before a frame with this stamp is shown."""
        wait = (pts - self.start_pts) * self.time_base - min(self.time_base, _LARGEST_ROUNDING)
        return max(0, math.ceil(wait * self.rate))
