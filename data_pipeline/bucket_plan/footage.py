"""Shots become a table of how much there is of each size and length: all that a plan of buckets needs to know."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

_LONGEST_CLIPS = 8
"""Shots longer than so many of the longest clips are counted as several of that length: their ends weigh nothing."""
_MOST_SIZES = 128


@dataclass(frozen=True)
class Shot:
    """An uninterrupted span: size as displayed, seconds, and how many such there are. No seconds: an image."""

    width: int
    height: int
    seconds: float
    weight: float = 1.0


@dataclass(frozen=True)
class Footage:
    """`counts[n, m]`: shots of `heights[n]` x `widths[n]` pixels that hold `instants[m]` frames of the wanted rate."""

    heights: Int[np.ndarray, " n"]
    widths: Int[np.ndarray, " n"]
    instants: Int[np.ndarray, " m"]
    counts: Float[np.ndarray, "n m"]

    def worth(self, largest: float) -> Float[np.ndarray, " n"]:
        """Pixels per frame that a bucket could show."""
        worth: Float[np.ndarray, " n"] = np.minimum(self.heights * self.widths, largest).astype(float)
        return worth

    def total(self, largest: float) -> float:
        """Pixels of all frames."""
        return float(self.worth(largest) @ (self.counts @ self.instants))


def films(shots: Iterable[Shot], *, fps: float, longest: int) -> Footage:
    """Of the shots those that are film; `longest` is the greatest number of frames that a bucket may have."""
    cells: Counter[tuple[int, int, int]] = Counter()
    most = _LONGEST_CLIPS * longest
    for shot in shots:
        if shot.seconds > 0 and shot.weight > 0:
            fitting = max(1, math.ceil(shot.seconds * fps - 1e-3))
            copies = max(1.0, fitting / most)
            cells[shot.height, shot.width, min(fitting, most)] += shot.weight * copies  # type: ignore[assignment]
    return _table(cells)


def stills(shots: Iterable[Shot]) -> Footage:
    """Of the shots those that are images, of one frame each."""
    cells: Counter[tuple[int, int, int]] = Counter()
    for shot in shots:
        if shot.seconds <= 0 and shot.weight > 0:
            cells[shot.height, shot.width, 1] += shot.weight  # type: ignore[assignment]
    return _table(cells)


def _table(cells: Counter[tuple[int, int, int]]) -> Footage:
    sizes = sorted({(height, width) for height, width, _ in cells})
    if len(sizes) > _MOST_SIZES:
        merged: Counter[tuple[int, int, int]] = Counter()
        for (height, width, fitting), weight in cells.items():
            merged[(*_rounded(height, width), fitting)] += weight
        cells = merged
        sizes = sorted({(height, width) for height, width, _ in cells})
    lengths = sorted({fitting for _, _, fitting in cells})
    counts = np.zeros((len(sizes), len(lengths)))
    rows, columns = ({value: index for index, value in enumerate(values)} for values in (sizes, lengths))
    for (height, width, fitting), weight in cells.items():
        counts[rows[height, width], columns[fitting]] += weight
    return Footage(
        heights=np.array([height for height, _ in sizes], int),
        widths=np.array([width for _, width in sizes], int),
        instants=np.array(lengths, int),
        counts=counts,
    )


def _rounded(height: int, width: int) -> tuple[int, int]:
    """A size near by: aspect ratios in steps of 3 per cent, areas in steps of 20."""
    aspect = math.exp(round(math.log(width / height) / 0.03) * 0.03)
    area = math.exp(round(math.log(height * width) / 0.2) * 0.2)
    return max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
