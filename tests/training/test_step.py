"""One global step: strata hit once each, draws that only know seed, step and clip, weights that sum to one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from cogvideox.schedule import Schedule
from cogvideox.variants import VARIANTS
from groundwork.latents import IndexedClip
from training.clips import EncodedClip
from training.recipe import Stage
from training.step import Draw, Question, StepPlan, ask, learning_rate, losses_of, plan_step, strata


def clip(name: str, tokens: int = 18) -> IndexedClip:
    return IndexedClip(name, "s", 0, "b", (16, 1, 2, 2 * tokens), (4, 8), tokens)


CLIPS = [clip(f"clip{number}", tokens=18 * (1 + number % 3)) for number in range(10)]
PACKS = [(0, 1, 2), (3, 4), (5, 6, 7), (8, 9)]


def plan(step: int, packs: list[tuple[int, ...]] = PACKS, **changes: object) -> StepPlan:
    return plan_step(step, packs, CLIPS, **({"seed": 3, "text_dropout": 0.1} | changes))


@pytest.mark.parametrize("step", [0, 1, 17, 4000])
def test_every_stratum_of_a_step_is_hit_exactly_once(step: int) -> None:
    assert sorted(draw.timestep // 100 for draw in plan(step).draws) == list(range(10))


def test_the_packs_of_all_workers_are_the_step_whatever_their_number() -> None:
    for world in (1, 2, 3, 4, 5):
        shares = [plan(5).share(rank, world) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1
        kept = {first: draws for share in shares for first, draws in share if any(draw.weight for draw in draws)}
        assert [draw for first in sorted(kept) for draw in kept[first]] == list(plan(5).draws)


def test_workers_that_share_rows_get_the_same_packs() -> None:
    assert plan(5).share(2, 4, together=2) == plan(5).share(3, 4, together=2) == plan(5).share(1, 2)


def test_a_worker_without_work_answers_a_pack_that_does_not_count() -> None:
    idle = plan(5).share(4, 5)
    assert [draw.weight for _, draws in idle for draw in draws] == [0.0] * 3


@pytest.mark.parametrize("weighting", ["sample", "sqrt_token", "token"])
def test_weights_of_a_step_sum_to_one(weighting: str) -> None:
    draws = plan(5, weighting=weighting).draws
    assert math.isclose(sum(draw.weight for draw in draws), 1.0)
    if weighting == "token":
        assert draws[2].weight == pytest.approx(3 * draws[0].weight)


def test_text_is_dropped_about_one_time_in_ten() -> None:
    dropped = [draw.drop_text for step in range(300) for draw in plan(step).draws]
    assert 0.08 < sum(dropped) / len(dropped) < 0.12


def test_noise_knows_only_seed_step_and_clip() -> None:
    encoded = {n: EncodedClip(torch.randn(16, 1, 4, 6).bfloat16(), torch.randn(4, 8).bfloat16()) for n in range(10)}

    def asked(draws: tuple[Draw, ...], step: int) -> Question:
        return ask(draws, [encoded[draw.clip] for draw in draws], seed=3, step=step, variant=VARIANTS["toy"])

    for draws in plan(7).packs:
        together = asked(draws, 7)
        for place, draw in enumerate(draws):
            assert torch.equal(asked((draw,), 7).targets[0], together.targets[place])
            assert torch.equal(asked((draw,), 7).batch.latents[0], together.batch.latents[place])
            assert not torch.equal(asked((draw,), 8).targets[0], together.targets[place])


def test_a_clip_of_moments_is_sampled_anew_at_every_step_by_seed_step_and_clip() -> None:
    mean, log_variance = torch.full((16, 8, 8, 8), 2.0).bfloat16(), torch.full((16, 8, 8, 8), -2.0).bfloat16()
    moments = EncodedClip(mean, torch.zeros(4, 8).bfloat16(), log_variance)
    drawn = [moments.draw(seed=3, step=step, name="a") for step in (1, 2)]
    assert torch.equal(drawn[0], moments.draw(seed=3, step=1, name="a"))
    assert not torch.equal(drawn[0], drawn[1])
    assert float(drawn[0].mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn[0].std()) == pytest.approx(math.exp(-1), rel=0.03)
    fixed = EncodedClip(mean, torch.zeros(4, 8).bfloat16())
    assert torch.equal(fixed.draw(seed=3, step=1, name="a"), mean.float())


def test_the_choice_of_a_caption_knows_only_seed_step_and_clip() -> None:
    clips = [replace(one, alternatives=("x", "y")) for one in CLIPS]
    many = [plan_step(step, PACKS, clips, seed=3, text_dropout=0.0, captions="any").draws for step in range(100)]
    chosen = Counter(draw.caption for draws in many for draw in draws)
    assert sorted(chosen) == [0, 1, 2]
    assert min(chosen.values()) > 0.25 * sum(chosen.values())
    turned = plan_step(7, [pack[::-1] for pack in PACKS], clips, seed=3, text_dropout=0.0, captions="any").draws
    assert {draw.name: draw.caption for draw in turned} == {draw.name: draw.caption for draw in many[7]}
    assert {draw.caption for draw in plan_step(7, PACKS, clips, seed=3, text_dropout=0.0).draws} == {0}
    assert {draw.caption for draw in plan(7, captions="any").draws} == {0}  # none of these clips has a choice


def test_a_clip_that_a_step_sees_twice_gets_other_noise() -> None:
    names = [draw.name for draw in plan(1, packs=[(0, 1), (0,)]).draws]
    assert names == ["clip0", "clip1", "clip0#1"]


def test_the_loss_is_the_weighted_error_of_the_clean_latent() -> None:
    draws, encoded = plan(2).packs[0], EncodedClip(torch.randn(16, 1, 4, 6).bfloat16(), torch.randn(4, 8).bfloat16())
    schedule = Schedule()
    question = ask(draws, [encoded] * 3, seed=3, step=2, variant=VARIANTS["toy"])
    answer = [torch.randn_like(target) for target in question.targets]
    for draw, noisy, velocity, loss in zip(
        draws, question.batch.latents, answer, losses_of(question, answer), strict=True
    ):
        share = float(schedule.alpha_bar[draw.timestep])
        clean = math.sqrt(share) * noisy - math.sqrt(1 - share) * velocity
        error = (clean - encoded.latent.float()).square().mean() / (1 - share)
        assert float(loss) == pytest.approx(float(error), rel=1e-4)


def test_strata_average_their_own_clips() -> None:
    means, counts = strata(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([10, 20, 999]))
    assert (means[0], counts[0], means[9], counts[9]) == (2.0, 2, 5.0, 1)
    assert math.isnan(means[4])


def test_the_rate_warms_up_then_falls_to_its_end() -> None:
    stage = Stage(
        steps=100, tokens_per_pack=1, packs_per_step=1, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=10
    )
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
