"""Packs: every clip once, rows within budget, and an order that does not know how many workers there are."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.packs import PackOrder, epoch_packs, plan_packs

LENGTHS = tuple(random.Random(3).choice([194, 302, 572, 1112]) for _ in range(200))


def mixed_lengths(count: int) -> tuple[int, ...]:
    """Images and videos from 478 to 15,010 tokens, most of them short."""
    chance = random.Random(0)
    return tuple(round(math.exp(chance.uniform(math.log(478), math.log(15_010)))) for _ in range(count))


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 900), min_size=1, max_size=80),
    budget=st.integers(900, 3000),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 5),
    world=st.integers(1, 5),
)
def test_a_pass_covers_every_clip_once_and_no_row_passes_the_budget(
    lengths: list[int], budget: int, seed: int, epoch: int, world: int
) -> None:
    packs = [pack for share in plan_packs(lengths, budget, seed, epoch, world) for pack in share]
    assert sorted(clip for pack in packs for clip in pack) == list(range(len(lengths)))
    assert all(sum(lengths[clip] for clip in pack) <= budget for pack in packs)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6])
def test_the_packs_of_a_step_do_not_depend_on_the_number_of_workers(world: int) -> None:
    alone = plan_packs(LENGTHS, 1500, 5, 2, 1, packs_per_step=6)[0]
    shares = plan_packs(LENGTHS, 1500, 5, 2, world, packs_per_step=6)
    taken = [iter(share) for share in shares]
    again = [next(taken[(index % 6) % world]) for index in range(len(alone))]
    assert tuple(again) == alone


def test_another_pass_and_another_seed_bring_another_order() -> None:
    first = plan_packs(LENGTHS, 1500, 5, 0, 1)
    assert plan_packs(LENGTHS, 1500, 5, 0, 1) == first
    assert plan_packs(LENGTHS, 1500, 5, 1, 1) != first
    assert plan_packs(LENGTHS, 1500, 6, 0, 1) != first


def test_a_clip_longer_than_the_budget_is_a_pack_of_its_own() -> None:
    packs = plan_packs([100, 5000, 100], 300, 0, 0, 1)[0]
    assert (1,) in packs


def test_rows_of_mixed_lengths_are_nearly_full() -> None:
    lengths = mixed_lengths(2000)
    packs = epoch_packs(lengths, budget=17_776, seed=0, epoch=0, packs_per_step=8, width=1920)
    filled = sum(lengths) / (17_776 * len(packs))
    assert filled > 0.98


def test_packs_of_one_step_cost_about_the_same() -> None:
    lengths = mixed_lengths(2000)
    packs = epoch_packs(lengths, budget=17_776, seed=0, epoch=0, packs_per_step=8, width=1920)
    balances = []
    for start in range(0, len(packs) - 8, 8):
        costs = [sum(lengths[i] * (6 * 1920 + lengths[i]) for i in pack) for pack in packs[start : start + 8]]
        balances.append(sum(costs) / (8 * max(costs)))
    assert sum(balances) / len(balances) > 0.93


def test_steps_follow_each_other_through_the_passes() -> None:
    lengths, fixed = (10, 20, 30, 40, 50), {"budget": 60, "seed": 1, "packs_per_step": 2, "width": 192}
    order = PackOrder(lengths=lengths, **fixed)
    walked = [pack for step in range(12) for pack in order.step(step)]
    passes = [pack for epoch in range(12) for pack in epoch_packs(lengths, epoch=epoch, **fixed)]
    assert walked == passes[: len(walked)]
    assert PackOrder(lengths=lengths, **fixed).step(9) == order.step(9)


def test_nothing_to_pack_and_a_budget_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths is empty"):
        PackOrder(lengths=(), budget=10, seed=0, packs_per_step=1, width=1)
    with pytest.raises(ValueError, match="budget=0"):
        plan_packs([1], 0, 0, 0, 1)
