"""What a stage trains on: buckets by pattern, bounds and best shares of stored scores, the mix of images and films."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from groundwork.errors import RecipeError
from groundwork.latents import IndexedClip
from groundwork.storage import open_storage
from training.datasets import open_data
from training.packs import PackOrder, pass_clips
from training.recipe import Stage, TrainRecipe
from training.stages import stage_clips

Make = Callable[..., TrainRecipe]
STAGE = {"steps": 1, "tokens_per_pack": 110, "packs_per_step": 1, "learning_rate": 1e-3}


def clip(number: int, bucket: str = "9x32x48", frames: int = 3) -> IndexedClip:
    return IndexedClip(f"clip{number}", "s", 0, bucket, (16, frames, 4, 6), (32, 256), 6 * frames)


CLIPS = tuple(clip(n) for n in range(8)) + tuple(clip(n, "1x32x48", 1) for n in range(8, 10))
SCORES = {
    "aesthetic_score": np.array([5.0, 4.0, np.nan, 6.0, 4.5, 5.5, 3.0, 5.2, 9.0, np.nan]),
    "motion_score": np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, np.nan, np.nan]),
}


def chosen(**changes: Any) -> tuple[int, ...]:
    return stage_clips(Stage.model_validate(STAGE | changes), CLIPS, SCORES)


def test_bounds_best_shares_and_kinds_choose_the_clips() -> None:
    assert chosen() == tuple(range(10))
    assert chosen(buckets=["*x32x*"]) == tuple(range(10))
    assert chosen(buckets=["9x*"]) == tuple(range(8))
    assert chosen(where={"aesthetic_score": {"at_least": 4.5}}) == (0, 3, 4, 5, 7, 8)
    assert chosen(where={"aesthetic_score": {"at_least": 4.5, "at_most": 5.5}}) == (0, 4, 5, 7)
    assert chosen(best={"aesthetic_score": 0.2}) == (3, 8)  # a fifth of all ten
    assert chosen(best={"aesthetic_score": 0.25}, buckets=["9x*"]) == (3, 5)  # of eight
    assert chosen(best={"aesthetic_score": 0.5}, where={"motion_score": {"at_least": 4}}) == (3, 5)
    assert chosen(images=0) == tuple(range(8))
    assert chosen(images=1) == (8, 9)


def test_a_bound_that_bounds_nothing_is_refused() -> None:
    for bound in ({}, {"at_least": 2, "at_most": 1}):
        with pytest.raises(ValidationError, match="at_least"):
            Stage.model_validate(STAGE | {"where": {"motion_score": bound}})


@pytest.fixture
def scored(dataset: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    table = pa.table({"clip_id": ["other", "clip3", "clip0"], "motion_score": pa.array([9, 3.5, 1.5], pa.float32())})
    open_storage(folder).write_table("signals/motion/part-00000.parquet", table)
    return folder


def test_scores_are_read_from_the_dataset_for_each_clip(scored: Path, recipe_with: Make) -> None:
    recipe = recipe_with(stages=[STAGE, STAGE | {"where": {"motion_score": {"at_least": 2}}}])
    data = open_data(recipe, [str(scored)])
    clips, scores = data.clips, data.scores
    assert scores["motion_score"][:4].tolist() == pytest.approx([1.5, np.nan, np.nan, 3.5], nan_ok=True)
    assert stage_clips(recipe.stages[1], clips, scores) == (3,)
    assert stage_clips(recipe.stages[0], clips, scores) == tuple(range(7))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best": {"motion": 0.5}}, "stores no score motion.\n  It has: motion_score."),
        ({"where": {"motion_score": {"at_least": 4}}}, "no clip of the dataset is within its bounds"),
        ({"images": 0.5}, "it has no image to train on"),
        ({"buckets": ["*x480x*"]}, "no bucket *x480x*"),
    ],
)
def test_a_stage_without_clips_is_refused(scored: Path, recipe_with: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        open_data(recipe_with(stages=[STAGE | changes]), [str(scored)])
    assert words in str(caught.value)


@pytest.mark.parametrize(("share", "stills"), [(0.2, 3), (0.2, 400), (0.5, 30), (0.9, 7)])
def test_a_pass_holds_every_film_once_and_the_share_of_images(share: float, stills: int) -> None:
    kinds = [number < stills for number in range(stills + 60)]
    passes = [pass_clips(kinds, image_share=share, seed=1, epoch=epoch) for epoch in range(40)]
    for members in passes:
        assert sorted(number for number in members if not kinds[number]) == list(range(stills, stills + 60))
        assert sum(kinds[number] for number in members) / len(members) == pytest.approx(share, abs=0.01)
    seen = Counter(number for members in passes for number in members if kinds[number])
    assert max(seen.values()) - min(seen[number] for number in range(stills)) <= 1


def test_steps_of_a_mixed_stage_go_through_whole_passes() -> None:
    images = tuple(number < 5 for number in range(25))
    order = PackOrder((40,) * 25, budget=90, seed=2, packs_per_step=3, width=64, images=images, image_share=0.5)
    again = PackOrder((40,) * 25, budget=90, seed=2, packs_per_step=3, width=64, images=images, image_share=0.5)
    counts = Counter(number for step in range(200) for pack in order.step(step) for number in pack)
    assert sum(counts[number] for number in range(5)) / counts.total() == pytest.approx(0.5, abs=0.02)
    assert max(counts[number] for number in range(5, 25)) - min(counts[number] for number in range(5, 25)) <= 1
    assert again.step(123) == order.step(123)
