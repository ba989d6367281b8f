"""A spike is scaled down to what recent gradients are like, and does not open the door for the next one."""

from __future__ import annotations

import json
import random

import pytest

from training.guard import GradientGuard


def guard_after(norms: list[float], **changes: float | None) -> GradientGuard:
    guard = GradientGuard(**({"clip": 10.0, "sigmas": 3.0} | changes))  # type: ignore[arg-type]
    for norm in norms:
        guard.add(norm)
    return guard


def usual(count: int) -> list[float]:
    chance = random.Random(1)
    return [chance.gauss(1.0, 0.1) for _ in range(count)]


def test_the_bound_is_mean_plus_three_deviations() -> None:
    assert guard_after(usual(2000)).bound == pytest.approx(1.3, abs=0.08)
    assert guard_after(usual(2000), sigmas=1.0).bound == pytest.approx(1.1, abs=0.05)


def test_the_fixed_clip_always_holds() -> None:
    assert guard_after(usual(19)).bound == 10.0
    assert guard_after(usual(2000), clip=0.5).bound == 0.5
    assert guard_after(usual(2000), sigmas=None).bound == 10.0


def test_a_spike_counts_as_the_bound_it_was_scaled_to() -> None:
    calm, spiked = guard_after(usual(500)), guard_after(usual(500))
    spiked.add(1e6)
    assert calm.bound < spiked.bound < 1.1 * calm.bound


def test_its_state_goes_through_a_checkpoint_to_the_bit() -> None:
    norms = usual(90)
    first, second = guard_after(norms[:50]), GradientGuard(10.0, 3.0)
    second.put_in(json.loads(json.dumps(first.state())))
    for norm in norms[50:]:
        first.add(norm)
        second.add(norm)
        assert first.bound == second.bound
