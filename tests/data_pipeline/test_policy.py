"""Policies: the shipped ones hold, a recipe starts from one, and the command line puts another in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.assess import known_scores
from data_pipeline.policy import POLICIES, Policy, load_policy
from data_pipeline.recipe import RECIPES, CurateRecipe
from data_pipeline.rules import check
from groundwork.config import load_recipe, shipped_recipes
from groundwork.errors import RecipeError

BUCKETS = "buckets: [{num_frames: 17, height: 96, width: 144}]\n"


@pytest.fixture(params=shipped_recipes(POLICIES))
def shipped(request: pytest.FixtureRequest) -> Policy:
    return load_policy(str(request.param))


def test_every_shipped_policy_asks_for_scores_that_are_measured_and_names_its_source(shipped: Policy) -> None:
    check(shipped.rules, known=known_scores())
    assert shipped.rules
    assert shipped.source
    assert (POLICIES / f"{shipped.name}.yaml").is_file()


def recipe(tmp_path: Path, text: str) -> CurateRecipe:
    path = tmp_path / "mine.yaml"
    path.write_text(BUCKETS + text)
    return load_recipe(CurateRecipe, str(path), folder=RECIPES)


def test_a_recipe_starts_from_a_policy_and_puts_its_own_rules_on_top(tmp_path: Path) -> None:
    toy = load_policy("toy").rules
    plain = recipe(tmp_path, "policy: toy")
    assert list(plain.rules.items()) == list(toy.items())
    mine = recipe(
        tmp_path, "policy: toy\nrules: {blurry: {score: sharpness_score, below: 9}, far: {score: upscale, above: 2}}"
    )
    assert list(mine.rules) == [*toy, "far"]
    assert mine.rules["blurry"].below == 9
    assert CurateRecipe.model_validate(mine.model_dump(mode="json")) == mine


def test_a_policy_named_later_takes_the_place_of_all_rules(tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("name: other\nrules: {dark: {score: luma_mean, below: 3}}")
    toy = load_recipe(CurateRecipe, "toy", folder=RECIPES)
    changed = CurateRecipe.model_validate({**dict(toy), "policy": str(other)})
    assert (changed.policy, list(changed.rules)) == ("other", ["dark"])


def test_an_unknown_policy_is_an_error_that_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"No recipe 'toyy'(?s:.*)mean 'toy'"):
        recipe(tmp_path, "policy: toyy")
