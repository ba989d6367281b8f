"""The shipped recipes: each fits its own model card, and the published numbers stand in them."""

from __future__ import annotations

import pytest

from cogvideox import shape
from cogvideox.variants import VARIANTS
from groundwork.config import load_recipe, shipped_recipes
from training.__main__ import recipe_kind
from training.fit import variant_of
from training.recipe import RECIPES, TrainRecipe

NAMES = [name for name in shipped_recipes(RECIPES) if recipe_kind(name) == "denoiser"]


def loaded(name: str) -> TrainRecipe:
    return load_recipe(TrainRecipe, name, folder=RECIPES)


def tokens(variant: str, num_frames: int, height: int, width: int) -> int:
    """Tokens of a clip in a row, text and video."""
    card = VARIANTS[variant]
    video = shape.num_video_tokens(num_frames, height, width, patch_frames=card.denoiser.patch_frames)
    return video + card.text.max_tokens


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_bears_its_name_and_its_rows_hold_its_clips(name: str) -> None:
    recipe = loaded(name)
    assert recipe.name == name
    variant_of(recipe)
    for stage in recipe.stages:
        for bucket in stage.buckets:
            if "*" not in bucket:
                frames, height, width = map(int, bucket.split("x"))
                assert stage.tokens_per_pack >= tokens(recipe.variant, frames, height, width)


@pytest.mark.parametrize("size", ["2b", "5b", "1.5-5b"])
def test_pretraining_follows_the_papers_tables(size: str) -> None:
    recipe = loaded(f"pretrain-{size}")
    assert [stage.steps for stage in recipe.stages] == [400_000, 220_000, 120_000, 10_000]
    assert [stage.packs_per_step for stage in recipe.stages] == [2000, 1000, 250, 100]
    adam = recipe.optimizer
    assert (adam.beta1, adam.beta2, adam.eps, adam.weight_decay, adam.gradient_clip) == (0.9, 0.95, 1e-8, 1e-4, 1.0)
    assert recipe.stages[-1].best == {"aesthetic_score": 0.2}
    for stage, longest in zip(recipe.stages, [(49, 256, 384), (49, 480, 720), (161, 768, 1360)], strict=False):
        assert 1 <= stage.tokens_per_pack / tokens(recipe.variant, *longest) < 1.25


@pytest.mark.parametrize("size", ["2b", "5b", "1.5-5b"])
def test_fine_tuning_follows_the_released_settings(size: str) -> None:
    full, adapter = loaded(f"finetune-{size}"), loaded(f"lora-{size}")
    assert (full.stages[0].learning_rate, full.optimizer.gradient_clip, full.stages[0].steps) == (1e-5, 0.1, 500)
    assert (adapter.adapter.rank, adapter.adapter.scale, adapter.stages[0].steps) == (128, 0.5, 1000)
    assert full.initial_weights == adapter.initial_weights == f"weights/{full.variant}"
    assert not full.is_partial
    assert adapter.is_partial


@pytest.mark.parametrize("size", ["toy", "5b", "1.5-5b"])
def test_image_to_video_starts_from_its_text_to_video_twin(size: str) -> None:
    recipe = loaded(f"i2v-{size}")
    assert variant_of(recipe).takes_image
    assert (recipe.image.noise_mean, recipe.image.noise_std, recipe.image.dropout) == (-3.0, 0.5, 0.05)
    assert recipe.stages[0].images == 0


def test_dropout_of_an_adapter_and_shared_rows_exclude_each_other() -> None:
    recipe = loaded("lora-5b")
    fields = recipe.model_dump()
    fields["engine"] |= {"sequence_parallel": 2}
    TrainRecipe.model_validate(fields)
    fields["adapter"] |= {"dropout": 0.1}
    with pytest.raises(ValueError, match="would each drop their own"):
        TrainRecipe.model_validate(fields)
