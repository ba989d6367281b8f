"""Which clips are held out, what is asked about them, and that nobody trains on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from groundwork.latents import read_index
from groundwork.storage import open_storage
from training.held_out import by_timestep, held_out_clips, held_out_plan
from training.order import Order
from training.recipe import HeldOutSettings, TrainRecipe


def test_the_same_clips_are_held_out_of_a_dataset_that_grows(dataset: Path) -> None:
    clips = read_index(open_storage(dataset))
    settings = HeldOutSettings(clips=3)
    names = {clips[number].clip_id for number in held_out_clips(settings, clips)}
    fewer = [clip for clip in clips if clip.clip_id in names] + [c for c in clips if c.clip_id not in names][:2]
    assert {fewer[number].clip_id for number in held_out_clips(settings, fewer)} == names
    assert held_out_clips(HeldOutSettings(), clips) == ()


def test_each_is_asked_at_each_timestep_in_rows_within_the_budget(dataset: Path) -> None:
    clips = read_index(open_storage(dataset))
    settings = HeldOutSettings(clips=2, timesteps=(0, 400, 999))
    plan = held_out_plan(settings, clips, budget=120)
    asked = Counter((draw.clip, draw.timestep) for draw in plan.draws)
    assert asked == Counter((number, at) for number in held_out_clips(settings, clips) for at in (0, 400, 999))
    assert len({draw.name for draw in plan.draws}) == 6  # so that each has noise of its own
    for pack in plan.packs:
        assert sum(clips[draw.clip].num_tokens for draw in pack) <= 120
    losses = [float(draw.timestep) for draw in plan.draws]
    assert by_timestep(settings, plan, losses) == [0.0, 400.0, 999.0]


def test_no_step_trains_on_them(dataset: Path, recipe_with: Callable[..., TrainRecipe]) -> None:
    clips = read_index(open_storage(dataset))
    recipe = recipe_with(held_out={"clips": 2})
    out = set(held_out_clips(recipe.held_out, clips))
    order = Order(recipe, clips, {})
    trained = {draw.clip for step in range(recipe.num_steps) for draw in order.step(step).draws}
    assert trained
    assert not trained & out
    assert trained | out <= set(range(len(clips)))


@pytest.mark.parametrize("packs", [4, 5])
def test_the_papers_form_gives_each_pack_an_interval(
    dataset: Path, recipe_with: Callable[..., TrainRecipe], packs: int
) -> None:
    clips = read_index(open_storage(dataset))
    recipe = recipe_with(timesteps="pack")
    stage = recipe.stages[1].model_copy(update={"packs_per_step": packs})
    recipe = recipe.model_copy(update={"stages": (stage,)})
    order = Order(recipe, clips, {})
    for step in range(4):
        for number, pack in enumerate(order.step(step).packs):
            assert {draw.timestep * packs // 1000 for draw in pack} == {number}
