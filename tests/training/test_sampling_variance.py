"""How much the loss of a step moves by the choice of its timesteps alone: plain chance, the paper's form, and ours.

The paper gives each rank an interval of its own (section 3.3). That holds while a rank has one clip; with packs of
several the clips of a step no longer cover all timesteps evenly, and explicit uniform sampling is as noisy as chance.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import Literal

import pytest
import torch

from groundwork.latents import IndexedClip
from training.step import plan_step

CLIPS = [IndexedClip(f"clip{number}", "", number, "", (16, 1, 8, 12), (4, 8), 24) for number in range(600)]
LOSS = 0.11 + 0.3 * torch.exp(-(torch.arange(1000) + 0.5) / 123)
"""A loss that falls steeply from clean to noisy latents. Its steepness sets the scale of all gains alike."""


def packs_of(step: int, *, ranks: int, at_most: int) -> list[tuple[int, ...]]:
    """A pack per rank of 1 to `at_most` clips, all different."""
    chance = random.Random(f"{ranks}/{step}")
    sizes = [chance.randint(1, at_most) for _ in range(ranks)]
    starts = [sum(sizes[:rank]) for rank in range(ranks)]
    return [tuple(range(start, start + size)) for start, size in zip(starts, sizes, strict=True)]


def spread(means: Sequence[torch.Tensor]) -> float:
    return float(torch.stack(list(means)).std())


def planned(ranks: int, at_most: int, steps: int, timesteps: Literal["step", "pack"]) -> float:
    """Standard deviation over steps of the mean loss, with the timesteps that a training draws."""
    means = []
    for step in range(steps):
        packs = packs_of(step, ranks=ranks, at_most=at_most)
        draws = plan_step(step, packs, CLIPS, seed=1, text_dropout=0.0, timesteps=timesteps).draws
        means.append(LOSS[[draw.timestep for draw in draws]].mean())
    return spread(means)


@cache
def gains(ranks: int, at_most: int, steps: int) -> tuple[float, float]:
    """How many times steadier than plain chance the paper's form and ours are."""
    generator = torch.Generator().manual_seed(0)
    counts = [sum(map(len, packs_of(step, ranks=ranks, at_most=at_most))) for step in range(steps)] * 20
    chance = spread([LOSS[torch.randint(1000, (count,), generator=generator)].mean() for count in counts])
    pack, whole = (planned(ranks, at_most, steps, kind) for kind in ("pack", "step"))
    return chance / pack, chance / whole


@pytest.mark.parametrize(("ranks", "steps", "ours"), [(2, 300, 2.2), (8, 150, 12.7), (16, 100, 26.8), (64, 60, 110.0)])
def test_with_packs_only_strata_of_the_whole_step_are_steadier_than_chance(ranks: int, steps: int, ours: float) -> None:
    by_pack, by_step = gains(ranks, 8, steps)
    assert by_pack == pytest.approx(0.9, rel=0.25)
    assert by_step == pytest.approx(ours, rel=0.25)


@pytest.mark.parametrize(("ranks", "paper", "ours"), [(40, 14.8, 14.8), (64, 3.0, 24.0)])
def test_with_one_clip_a_rank_both_are(ranks: int, paper: float, ours: float) -> None:
    """On 64 ranks the published rule leaves 8 intervals: the largest divisor of 64 that divides 1000 as well."""
    by_pack, by_step = gains(ranks, 1, 120)
    assert by_pack == pytest.approx(paper, rel=0.25)
    assert by_step == pytest.approx(ours, rel=0.25)
