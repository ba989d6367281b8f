"""Encoding: the latent of the shipped model, scaled, in bytes that read back; shards in a fixed order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import load_autoencoder
from data_pipeline.encode import EncodeJob, bfloat16_bytes, encode_fingerprint, load_encoder, models_used
from data_pipeline.recipe import Bucket
from data_pipeline.shards import find_encoded, stage, write_shards
from groundwork.errors import MediaError, RecipeError
from groundwork.media import sample_clip
from groundwork.records import Latent, from_table
from groundwork.storage import open_storage

BUCKET = Bucket(num_frames=9, height=32, width=48)


def job(clip_id: str, *, start: float = 0.0, caption: str = "a shot") -> EncodeJob:
    return EncodeJob(clip_id, start, 8.0, BUCKET, caption)


def latent_row(clip_id: str, caption: str = "a shot") -> Latent:
    return Latent(clip_id, b"\1\2" * 4, [1, 1, 2, 2], b"\3\4", [1, 1], tokens=1, caption=caption)


def test_bfloat16_bytes_read_back_as_they_were() -> None:
    values = torch.randn(3, 5).to(torch.bfloat16)
    data = bfloat16_bytes(values.float())
    assert torch.equal(torch.frombuffer(bytearray(data), dtype=torch.bfloat16).view(3, 5), values)


def test_a_row_holds_the_scaled_mode_of_the_sampled_frames(footage: Path, weights: Path) -> None:
    path = footage / "city.mpg"
    row = load_encoder("toy", weights=str(weights)).encode(path, job("c", start=4.68))
    assert (row.latent_shape, row.text_shape, row.tokens) == ([16, 3, 4, 6], [32, 256], 18)
    frames = sample_clip(path, start_seconds=4.68, num_frames=9, fps=8.0, height=32, width=48)
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    autoencoder = load_autoencoder(weights, dtype=torch.float32)
    with torch.inference_mode():
        expected = autoencoder.encode(pixels).mode()[0] * VARIANTS["toy"].scale_factor
    assert row.latent == bfloat16_bytes(expected)


def test_the_shipped_autoencoder_is_taken_where_no_weights_are_named() -> None:
    row = load_encoder("toy", weights="").encode_frames(torch.full((9, 32, 48, 3), 90, dtype=torch.uint8), job("c"))
    values = np.frombuffer(row.latent, dtype=np.uint16).astype(np.uint32) << 16
    assert np.isfinite(values.view(np.float32)).all()


def test_a_clip_beyond_the_end_of_its_film_is_a_media_error(footage: Path, weights: Path) -> None:
    with pytest.raises(MediaError, match="ends before"):
        load_encoder("toy", weights=str(weights)).encode(footage / "city.mpg", job("c", start=7.4))


def test_an_unknown_variant_and_missing_weights_are_told() -> None:
    with pytest.raises(RecipeError, match="cogvideox-5b"):
        load_encoder("toys", weights="")
    with pytest.raises(RecipeError, match=r"--encode\.weights"):
        models_used("cogvideox-5b", weights="")


def test_other_weights_give_another_fingerprint(weights: Path) -> None:
    own, shipped = (models_used("toy", weights=folder) for folder in (str(weights), ""))
    assert own["autoencoder"].keys() == shipped["autoencoder"].keys() == {"diffusion_pytorch_model.safetensors"}
    assert own["text_encoder"] == HashTextEncoder().fingerprint
    assert encode_fingerprint("toy", models=own) != encode_fingerprint("toy", models=shipped)


def test_the_autoencoder_of_a_whole_model_is_the_same_as_the_part_alone(weights: Path, tmp_path: Path) -> None:
    shutil.copytree(weights, tmp_path / "vae")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors").touch()
    assert models_used("toy", weights=str(tmp_path)) == models_used("toy", weights=str(weights))


def test_shards_hold_clips_in_the_order_of_ids_one_row_group_each(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    jobs = [job(name) for name in ("d", "b", "a", "c", "e")]
    for one in jobs:
        stage(out, one, latent_row(one.clip_id), fingerprint="f")
    encoded = find_encoded(out, jobs, fingerprint="f")
    shards = write_shards(out, jobs, encoded, fingerprint="f", clips_per_shard=2)
    assert [(shard.bucket, shard.clips) for shard in shards] == [("9x32x48", 2), ("9x32x48", 2), ("9x32x48", 1)]
    ids = [[row.clip_id for row in from_table(out.read_table(shard.path), Latent)] for shard in shards]
    assert ids == [["a", "b"], ["c", "d"], ["e"]]
    assert pq.ParquetFile(out.path(shards[0].path)).metadata.num_row_groups == 2


def test_rows_of_an_earlier_run_are_found_again_unless_something_changed(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    jobs = [job("a"), job("b")]
    for one in jobs:
        stage(out, one, latent_row(one.clip_id), fingerprint="f")
    write_shards(out, jobs, find_encoded(out, jobs, fingerprint="f"), fingerprint="f", clips_per_shard=9)
    out.delete_tree("work")
    assert set(find_encoded(out, [*jobs, job("new")], fingerprint="f")) == {"a", "b"}
    assert find_encoded(out, jobs, fingerprint="other") == {}
    assert set(find_encoded(out, [job("a", caption="told otherwise"), job("b")], fingerprint="f")) == {"b"}


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    stage(out, job("a"), latent_row("a"), fingerprint="f")
    shard = write_shards(
        out, [job("a")], find_encoded(out, [job("a")], fingerprint="f"), fingerprint="f", clips_per_shard=9
    )
    out.delete_tree("work")
    out.write_bytes(shard[0].path, out.read_bytes(shard[0].path)[:100])
    assert find_encoded(out, [job("a")], fingerprint="f") == {}
