"""Recipes: the shipped ones hold, and a wrong one says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.recipe import RECIPES, CurateRecipe
from groundwork.config import load_recipe, shipped_recipes
from groundwork.errors import RecipeError


@pytest.mark.parametrize("name", shipped_recipes(RECIPES))
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_recipe(CurateRecipe, name, folder=RECIPES).name == name


def test_the_smoke_recipe_is_the_toy_with_a_cap() -> None:
    toy, smoke = (load_recipe(CurateRecipe, name, folder=RECIPES) for name in ("toy", "smoke"))
    assert smoke.clips.max_clips == 4
    assert smoke.model_copy(update={"name": "toy", "clips": toy.clips}) == toy


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bucket: []", "did you mean 'buckets'"),
        ("buckets: [{num_frames: 16, height: 96, width: 144}]", r"4N \+ 1"),
        ("buckets: [{num_frames: 17, height: 90, width: 144}]", "multiples of 16"),
        (
            "buckets: [{num_frames: 17, height: 96, width: 144}]\nrules: {dark: {score: luma_mean}}",
            "'below' or 'above'",
        ),
    ],
)
def test_a_wrong_recipe_says_what_and_where(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=told):
        load_recipe(CurateRecipe, str(path), folder=RECIPES)
