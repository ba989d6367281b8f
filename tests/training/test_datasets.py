"""Several datasets as one: the same clips at two sizes, numbered and identified alike in whatever order they come."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from cogvideox import shape
from groundwork.errors import InputError, RecipeError
from groundwork.latents import open_dataset
from groundwork.records import Latent
from groundwork.shard import write_shard
from groundwork.storage import open_storage
from tests.training.conftest import encoded_row
from training.clips import ClipReader
from training.datasets import open_data
from training.held_out import held_out_clips
from training.order import Order
from training.recipe import TrainRecipe

Make = Callable[..., TrainRecipe]
SCORED = {"name": "large", "buckets": ["*x64x96"], "where": {"motion_score": {"at_least": 2}}}
STAGE = {"steps": 8, "tokens_per_pack": 400, "packs_per_step": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def larger(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the clips once more, at twice the size and with a score."""
    out, small = tmp_path_factory.mktemp("larger"), open_dataset(dataset)
    reader, rows = ClipReader(small), dict[int, list[Latent]]()
    for number, clip in enumerate(small.index[:4]):
        latent = reader.read(number).latent.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        frames = shape.pixel_frames(latent.shape[1])
        row = encoded_row(clip.clip_id, latent, "larger", num_frames=frames)
        rows.setdefault(frames, []).append(replace(row, tokens=shape.num_video_tokens(frames, 64, 96)))
    storage = open_storage(out)
    for frames, members in rows.items():
        write_shard(storage, f"latents/{frames}x64x96/part-00000.parquet", members, Latent)
    scores = pa.table({"clip_id": ["clip0", "clip1", "clip2"], "motion_score": [1.0, 2.0, 3.0]})
    storage.write_table("signals/motion/part-00000.parquet", scores)
    storage.write_json("manifest.json", {"complete": True, "variant": "toy", "dataset_hash": "four"})
    return out


def test_each_clip_is_read_from_its_own_dataset(dataset: Path, larger: Path, recipe_with: Make) -> None:
    recipe = recipe_with(stages=[STAGE | {"name": "small", "buckets": ["*x32x48"]}, STAGE | SCORED])
    data, turned = (open_data(recipe, pair) for pair in ([str(dataset), str(larger)], [str(larger), str(dataset)]))
    assert data.clips == turned.clips
    assert data.hash == turned.hash
    assert data.hash not in {open_data(recipe_with(stages=[STAGE]), [str(dataset)]).hash}
    assert len(data.clips) == 11
    for number, clip in enumerate(data.clips):
        read = data.reader().read(number)
        assert read.latent.shape == clip.latent_shape
        assert torch.equal(read.latent, turned.reader().read(number).latent)
    expected = [np.nan if clip.bucket.endswith("x32x48") else int(clip.clip_id[4:]) + 1 for clip in data.clips]
    expected = [np.nan if value == 4 else value for value in expected]  # clip3 has no score
    assert data.scores["motion_score"].tolist() == pytest.approx(expected, nan_ok=True)
    order = Order(recipe, data.clips, data.scores)
    assert {clip.clip_id for clip in order.clips_of(1)} == {"clip1", "clip2"}
    assert {clip.bucket for clip in order.clips_of(0)} == {"5x32x48", "9x32x48"}


def test_a_clip_is_held_out_at_every_size(dataset: Path, larger: Path, recipe_with: Make) -> None:
    recipe = recipe_with(stages=[STAGE], held_out={"clips": 4})
    data = open_data(recipe, [str(dataset), str(larger)])
    out = {data.clips[number].clip_id for number in held_out_clips(recipe.held_out, data.clips)}
    assert len(out) == 4
    order = Order(recipe, data.clips, data.scores)
    assert {clip.clip_id for clip in order.clips_of(0)} == {f"clip{number}" for number in range(7)} - out


def test_a_clip_twice_at_the_same_size_is_refused(dataset: Path, tmp_path: Path, recipe_with: Make) -> None:
    again = shutil.copytree(dataset, tmp_path / "again")
    with pytest.raises(InputError, match=r"Clip clip0 \(9x32x48\) is in .* and .*again"):
        open_data(recipe_with(), [str(dataset), str(again)])


def test_a_score_that_none_of_them_holds_is_refused(dataset: Path, larger: Path, recipe_with: Make) -> None:
    recipe = recipe_with(stages=[STAGE | {"best": {"aesthetic_score": 0.5}}])
    with pytest.raises(RecipeError, match=r"no score aesthetic_score.\n.*It has: motion_score"):
        open_data(recipe, [str(dataset), str(larger)])
