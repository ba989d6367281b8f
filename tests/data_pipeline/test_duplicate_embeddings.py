"""Duplicates by embeddings: a real (untrained) CLIP and DINO from folders that transformers wrote."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from data_pipeline.duplicates.embeddings import Embedder, clip_vectors, embedding_pairs, fingerprints
from data_pipeline.recipe import DuplicateSettings, EmbeddingSettings
from groundwork.errors import RecipeError
from groundwork.storage import open_storage

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def save(model: torch.nn.Module, folder: Path) -> str:
    model.save_pretrained(folder)
    said = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "image_mean": [0.4] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    vision = {**SIZES, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(vision_config=vision, text_config={**SIZES, "vocab_size": 99}, projection_dim=24)
    return save(CLIPModel(config), tmp_path_factory.mktemp("clip"))


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def pictures() -> dict[str, bytes]:
    """Three pictures of coarse colour patches; each again, at half the size and lower quality."""
    numbers, found = np.random.default_rng(0), {}
    for name in "abc":
        patches = numbers.integers(0, 255, (4, 6, 3), dtype=np.uint8)
        image = cv2.resize(patches, (144, 96), interpolation=cv2.INTER_CUBIC)
        found[name] = jpeg(image)
        found[f"{name}-copy"] = jpeg(cv2.resize(image, (72, 48), interpolation=cv2.INTER_AREA), quality=50)
    return found


def test_equal_pictures_pair_and_others_do_not(clip: str, tmp_path: Path) -> None:
    embedding = EmbeddingSettings(model=clip, epsilon=0.002)
    settings, out, shown = DuplicateSettings(mode="embedding", embedding=embedding), open_storage(tmp_path), pictures()
    rows = {"clip_id": list(shown), "video_id": list(shown), "thumbnail": list(shown.values())}
    shots, ids = [pa.table(rows).slice(0, 2), pa.table(rows).slice(2)], pa.array(shown)
    vectors, videos = clip_vectors(out, shots, settings, only=ids)
    assert list(videos) == list(shown)
    assert {vector.shape for vector in vectors.values()} == {(24,)}
    assert all(np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors.values())
    pairs = embedding_pairs(vectors, videos, embedding)
    assert [(pair.left, pair.right) for pair in pairs] == [(name, f"{name}-copy") for name in "abc"]
    assert embedding_pairs(vectors, dict.fromkeys(shown, "one"), embedding) == []
    (kept,) = out.list("work/embeddings")
    out.write_table(kept, out.read_table(kept))
    (Path(clip) / "model.safetensors").rename(tmp_path / "moved")  # what is known needs no encoder
    try:
        with pytest.raises(RecipeError, match="cannot be loaded"):
            Embedder(clip)
    finally:
        (tmp_path / "moved").rename(Path(clip) / "model.safetensors")
    again, _ = clip_vectors(out, shots, settings, only=ids.slice(1))
    assert list(again) == list(shown)[1:]
    assert all(np.array_equal(again[name], vectors[name]) for name in again)


def test_an_encoder_of_another_kind_works_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    vectors = Embedder(save(Dinov2Model(config), tmp_path)).embed(list(pictures().values())[:2])
    assert vectors.shape == (2, 32)


def test_clusters_part_no_pair() -> None:
    numbers = np.random.default_rng(1)
    centres = numbers.normal(size=(2000, 16))
    near = centres[::10] + numbers.normal(scale=0.005, size=(200, 16))
    every = np.concatenate([centres, near])
    every /= np.linalg.norm(every, axis=1, keepdims=True)
    vectors = {f"{number:05d}": vector.astype(np.float32) for number, vector in enumerate(every)}
    videos = {name: name for name in vectors}
    settings = EmbeddingSettings(model="none", epsilon=0.001, cluster_size=100)
    pairs = {(pair.left, pair.right) for pair in embedding_pairs(vectors, videos, settings)}
    whole = settings.model_copy(update={"cluster_size": 10_000})
    expected = {(pair.left, pair.right) for pair in embedding_pairs(vectors, videos, whole)}
    assert expected >= {(f"{10 * n:05d}", f"{2000 + n:05d}") for n in range(200)}
    assert len(expected - pairs) <= 0.01 * len(expected)


def test_a_missing_encoder_is_told_before_anything_runs(tmp_path: Path) -> None:
    for folder in ("", str(tmp_path)):
        asked = DuplicateSettings(mode="both", embedding=EmbeddingSettings(model=folder))
        with pytest.raises(RecipeError, match=r"duplicates\.embedding\.model"):
            fingerprints(asked)
    assert fingerprints(DuplicateSettings(mode="hash")) == {}
