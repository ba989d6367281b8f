"""The frozen encoders: real (untrained) image and video classes; frames from real spans, vectors kept once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTForImageClassification, VJEPA2Config, VJEPA2Model

from data_pipeline.labels.encoder import FrozenEncoder, model_version
from data_pipeline.labels.frames import spread_frames
from data_pipeline.labels.store import Made, read_facts, read_vectors, write_vectors
from groundwork.errors import MediaError, WeightsError
from groundwork.media import write_video
from groundwork.storage import open_storage
from tests.support.tiny_vlms import save_siglip, save_videomae

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def clips(count: int, num_frames: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, num_frames, 40, 56, 3), dtype=np.uint8))


def save_image_classifier(folder: Path) -> Path:
    """ViT with a head for classes, as most are published: AutoModel would add a pooler at random."""
    ViTForImageClassification(ViTConfig(**SIZES, intermediate_size=64, image_size=32, patch_size=8)).save_pretrained(
        folder
    )
    return _images(folder, "ViTImageProcessor", {"height": 32, "width": 32})


def save_dinov2(folder: Path) -> Path:
    Dinov2Model(Dinov2Config(**SIZES, image_size=28, patch_size=14)).save_pretrained(folder)
    return _images(folder, "BitImageProcessor", {"shortest_edge": 32})


def save_vjepa2(folder: Path) -> Path:
    """V-JEPA 2: its preparation exists for torchvision alone."""
    config = VJEPA2Config(
        **SIZES, patch_size=8, crop_size=32, frames_per_clip=8, tubelet_size=2, pred_hidden_size=24,
        pred_num_attention_heads=2, pred_num_hidden_layers=1,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)
    said = {"video_processor_type": "VJEPA2VideoProcessor", "size": {"shortest_edge": 36}}
    said |= {"crop_size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(said))
    return folder


def _images(folder: Path, kind: str, size: dict[str, int]) -> Path:
    said = {"image_processor_type": kind, "size": size, "crop_size": {"height": 28, "width": 28}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("save", [save_siglip, save_dinov2, save_image_classifier])
def test_an_image_encoder_sees_each_frame_and_tells_how_much_changes(save, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FrozenEncoder(str(save(tmp_path)), num_frames=3)
    moving = clips(2, 3)
    still = np.repeat(moving[0][:1], 3, axis=0)
    found = encoder.vectors([*moving, still])
    assert (encoder.num_frames, encoder.sees_video) == (3, False)
    width = found.shape[1] // 2
    alone = np.stack([encoder.vectors([np.repeat(frame[None], 3, axis=0)])[0, :width] for frame in moving[1]])
    np.testing.assert_allclose(found[1], np.concatenate([alone.mean(axis=0), alone.std(axis=0)]), atol=1e-4)
    np.testing.assert_allclose(found[2, width:], 0, atol=1e-5)
    assert found[0, width:].max() > 1e-3


@pytest.mark.parametrize(("save", "frames"), [(save_videomae, 8), (save_vjepa2, 8)])
def test_a_video_encoder_sees_the_order_of_the_frames(save, frames: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = FrozenEncoder(str(save(tmp_path)))
    assert (encoder.num_frames, encoder.sees_video) == (frames, True)
    (clip,) = clips(1, frames)
    found = encoder.vectors([clip, clip[::-1]])
    assert found.shape == (2, 64)
    assert np.abs(found[0] - found[1]).max() > 1e-5


def test_frames_that_a_video_encoder_has_no_positions_for_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="positions are for 8 frames, not 5"):
        FrozenEncoder(str(save_videomae(tmp_path)), num_frames=5)
    assert FrozenEncoder(str(save_vjepa2(tmp_path / "rotary")), num_frames=4).vectors(clips(1, 4)).shape == (1, 64)


def test_a_version_is_a_hash_of_the_folder_or_a_pinned_commit(tmp_path: Path) -> None:
    folder = save_siglip(tmp_path / "one")
    first = model_version(str(folder), revision="", setting="x")
    (folder / "preprocessor_config.json").write_text("{}")
    assert model_version(str(folder), revision="", setting="x") != first
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert model_version("google/siglip", revision=commit, setting="x") == f"google/siglip@{commit}"
    for model, revision, said in (
        ("google/siglip", "main", "without a commit"),
        (str(tmp_path), "", r"holds no config\.json"),
        ("", "", r"holds no config\.json"),
    ):
        with pytest.raises(WeightsError, match=said):
            model_version(model, revision=revision, setting="x")


def test_frames_are_those_on_display_in_the_middles_of_equal_parts(tmp_path: Path) -> None:
    greys = np.arange(0, 250, 10, dtype=np.uint8)
    film = tmp_path / "film.mp4"
    write_video(film, np.broadcast_to(greys[:, None, None, None], (25, 32, 48, 3)).copy(), fps=25.0, crf=1)

    def shown(start: float, stop: float, count: int) -> list[int]:
        frames = spread_frames(film, start_seconds=start, stop_seconds=stop, num_frames=count, short_side=16)
        assert frames.shape == (count, 16, 24, 3)
        return [round(float(frame.mean()) / 10) for frame in frames]

    assert shown(0.0, 1.0, 5) == [2, 7, 12, 17, 22]
    assert shown(0.4, 0.8, 2) == [12, 17]
    assert shown(0.4, 0.52, 6) == [10, 10, 11, 11, 12, 12]
    assert shown(0.92, 1.4, 3) == [24, 24, 24]
    with pytest.raises(MediaError, match="holds no frame"):
        shown(7.0, 8.0, 2)


def test_what_is_kept_is_read_again_each_clip_once(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    write_vectors(out, "key", [Made("a", [1.0, 2.0], cpu_milliseconds=3.0), Made("b", None, "damaged: there")])
    write_vectors(out, "key", [])
    write_vectors(out, "other", [Made("a", [9.0])])
    write_vectors(out, "key", [Made("b", None, "damaged: there")])
    ((clip_ids, vectors),) = read_vectors(out, "key")
    assert (clip_ids, vectors.tolist()) == (["a"], [[1.0, 2.0]])
    facts = {row["clip_id"]: row for row in read_facts(out, "key").to_pylist()}
    assert len(facts) == len(read_facts(out, "key")) == 2
    assert (facts["a"]["cpu_milliseconds"], facts["b"]["error"]) == (3.0, "damaged: there")
    assert len(read_facts(out, "nothing")) == 0
    assert list(read_vectors(out, "nothing")) == []
