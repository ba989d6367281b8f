"""A dataset that does not fit the recipe is refused before anything starts, with the reason."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from groundwork.errors import InputError, PlatformError, RecipeError, WeightsError
from groundwork.latents import open_dataset
from groundwork.records import Latent, from_table
from groundwork.shard import write_shard
from groundwork.storage import open_storage
from training.clips import ClipReader
from training.datasets import open_data
from training.recipe import TrainRecipe

Make = Callable[..., TrainRecipe]


@pytest.fixture
def copied(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "dataset"))


def change_manifest(folder: Path, **changes: Any) -> None:
    storage = open_storage(folder)
    storage.write_json("manifest.json", storage.read_json("manifest.json") | changes)


def refusal(recipe: TrainRecipe, folder: Path) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        open_data(recipe, [str(folder)])
    return caught.value


def test_a_fitting_dataset_is_indexed_and_read(dataset: Path, recipe_with: Make) -> None:
    data = open_data(recipe_with(), [str(dataset)])
    clips = data.clips
    assert [clip.clip_id for clip in clips] == [f"clip{number}" for number in range(7)]
    assert {clip.bucket for clip in clips} == {"5x32x48", "9x32x48"}
    assert all(clip.num_tokens == clip.video_tokens + 32 for clip in clips)
    reader = ClipReader(data.stored, cache_bytes=1)
    first = reader.read(0)
    assert first.latent.shape == (16, 3, 4, 6)
    assert 0.8 < float(first.latent.float().std()) < 1.2
    assert torch.equal(reader.read(0).latent, first.latent)


def test_an_unfinished_dataset_is_refused(copied: Path, recipe_with: Make) -> None:
    change_manifest(copied, complete=False)
    assert "is not finished" in str(refusal(recipe_with(), copied))


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path, recipe_with: Make) -> None:
    assert "holds no manifest.json" in str(refusal(recipe_with(), tmp_path))


def test_an_empty_dataset_is_refused(copied: Path, recipe_with: Make) -> None:
    shutil.rmtree(copied / "latents")
    error = refusal(recipe_with(), copied)
    assert isinstance(error, InputError)
    assert "no encoded clips" in str(error)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "cogvideox-5b"}, "encoded for variant 'cogvideox-5b', the recipe says 'toy'"),
        ({"models": {"scale_factor": 1.15}}, "scaled by 1.15"),
        ({"models": {"text_encoder": "hash-1-226x4096"}}, "text encoder is 'hash-1-226x4096'"),
        ({"models": {"autoencoder": {"diffusion_pytorch_model.safetensors": "00"}}}, "other autoencoder weights"),
    ],
)
def test_a_dataset_of_another_model_is_refused(
    copied: Path, recipe_with: Make, changes: dict[str, Any], words: str
) -> None:
    change_manifest(copied, **changes)
    assert words in str(refusal(recipe_with(), copied))


def test_a_text_of_another_length_is_refused(copied: Path, recipe_with: Make) -> None:
    (row, *_) = from_table(open_storage(copied).read_table("latents/5x32x48"), Latent)
    odd = replace(row, clip_id="odd", text_embedding=bytes(30 * 256 * 2), text_shape=[30, 256])
    write_shard(open_storage(copied), "latents/5x32x48/odd.parquet", [odd], Latent)
    assert "text embedding of (30, 256)" in str(refusal(recipe_with(), copied))


def test_a_clip_that_occurs_twice_is_refused(copied: Path, recipe_with: Make) -> None:
    shutil.copyfile(copied / "latents/5x32x48/part-00000.parquet", copied / "latents/5x32x48/part-00001.parquet")
    assert "is in latents" in str(refusal(recipe_with(), copied))


def test_a_damaged_shard_is_refused(copied: Path, recipe_with: Make) -> None:
    shard = copied / "latents/5x32x48/part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert "is damaged" in str(refusal(recipe_with(), copied))


def test_a_damaged_row_is_named_when_it_is_read(copied: Path) -> None:
    stored = open_dataset(copied)
    reader = ClipReader(stored)
    (copied / stored.index[0].shard).write_bytes(b"PAR1")
    with pytest.raises(InputError, match="clip0"):
        reader.read(0)


def test_rows_too_short_for_the_longest_clip_are_refused(dataset: Path, recipe_with: Make) -> None:
    stage = {"steps": 1, "tokens_per_pack": 40, "packs_per_step": 1, "learning_rate": 1e-3}
    error = refusal(recipe_with(stages=[stage]), dataset)
    assert isinstance(error, RecipeError)
    assert "Set tokens_per_pack to at least 50" in str(error)


def test_a_bucket_that_the_dataset_lacks_is_refused(dataset: Path, recipe_with: Make) -> None:
    stage = {"steps": 1, "tokens_per_pack": 90, "packs_per_step": 1, "learning_rate": 1e-3, "buckets": ["49x480x720"]}
    assert "no bucket 49x480x720" in str(refusal(recipe_with(stages=[stage]), dataset))


def test_components_without_an_autoencoder_are_refused(dataset: Path, tmp_path: Path, recipe_with: Make) -> None:
    assert isinstance(refusal(recipe_with(components=str(tmp_path)), dataset), WeightsError)


def test_an_unknown_variant_is_refused_with_the_known_ones(dataset: Path, recipe_with: Make) -> None:
    assert "cogvideox-5b" in str(refusal(recipe_with(variant="cogvideox-9b"), dataset))
