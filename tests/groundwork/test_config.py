"""A wrong recipe is answered with the file, the key and the nearest known key."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from groundwork.config import FrozenModel, find_recipe, load_recipe, recipe_hash
from groundwork.errors import RecipeError


class Optimizer(FrozenModel):
    learning_rate: float = 1e-3


class Recipe(FrozenModel):
    num_steps: int
    optimizer: Optimizer = Optimizer()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy.yaml").write_text("num_steps: 3\noptimizer: {learning_rate: 0.5}\n")
    (tmp_path / "typo.yaml").write_text("num_stepz: 3\noptimizer: {learning_rat: 0.5}\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    return tmp_path


def test_a_recipe_is_found_by_name_and_by_path(folder: Path) -> None:
    assert load_recipe(Recipe, "toy", folder=folder).optimizer.learning_rate == 0.5
    assert load_recipe(Recipe, str(folder / "toy.yaml"), folder=Path("nowhere")).num_steps == 3


def test_an_unknown_name_lists_the_shipped_ones_and_the_nearest(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'toy'\?.*broken, list, toy, typo"):
        find_recipe("toys", folder=folder)


def test_every_wrong_key_is_named_with_the_nearest_known_one(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(Recipe, "typo", folder=folder)
    message = str(caught.value)
    assert "typo.yaml" in message
    assert "num_stepz: unknown key; did you mean 'num_steps'?" in message
    assert "optimizer.learning_rat: unknown key; did you mean 'learning_rate'?" in message


@pytest.mark.parametrize("name", ["list", "broken"])
def test_a_file_that_is_no_mapping_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}.yaml"):
        load_recipe(Recipe, name, folder=folder)


def test_recipes_are_frozen_and_equal_ones_hash_equal() -> None:
    recipe = Recipe(num_steps=1)
    with pytest.raises(ValidationError):
        recipe.num_steps = 2  # type: ignore[misc]
    assert recipe_hash(recipe) == recipe_hash(Recipe(num_steps=1, optimizer=Optimizer(learning_rate=0.001)))
    assert recipe_hash(recipe) != recipe_hash(Recipe(num_steps=2))
