"""Text laid over a film is told from text in it; the published aesthetic heads load and score."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from data_pipeline.signals import aesthetics
from data_pipeline.signals.aesthetics import Aesthetics, load_head, to_pixels
from data_pipeline.signals.text import Text, overlap, text_scores
from groundwork.errors import WeightsError
from tests.support.signals import panned

LINE = np.array([[0.1, 0.1, 0.5, 0.2]])


def test_text_that_keeps_its_place_is_overlay_and_text_that_moves_is_scene() -> None:
    stays = text_scores([LINE, LINE, LINE])
    moves = text_scores([LINE, LINE + 0.05, LINE + 0.1])
    assert (stays["overlay_text_share"], stays["scene_text_share"]) == (pytest.approx(0.04), 0.0)
    assert (moves["overlay_text_share"], moves["scene_text_share"]) == (0.0, pytest.approx(0.04))


def test_captions_are_overlay_though_they_change() -> None:
    first, second = np.array([[0.3, 0.85, 0.7, 0.92]]), np.array([[0.2, 0.85, 0.8, 0.92]])
    assert text_scores([first, second])["scene_text_share"] == 0.0


def test_no_text_is_no_text() -> None:
    assert set(text_scores([np.zeros((0, 4))]).values()) == {0.0}
    assert overlap(LINE, np.zeros((0, 4))).shape == (1, 0)


def test_a_clip_without_text_in_its_middle_costs_one_look() -> None:
    asked: list[int] = []

    def nothing(image: np.ndarray) -> np.ndarray:
        asked.append(image.shape[0])
        return np.zeros((0, 4))

    Text(nothing).score(iter(np.zeros((3, 90, 160, 3), np.uint8)))
    assert asked == [90]


def written(frames: np.ndarray, *, steps: int) -> np.ndarray:
    """Text on each frame, `steps` pixels further each time."""
    for index, frame in enumerate(frames):
        cv2.putText(frame, "BREAKING NEWS", (40 + index * steps, 80), cv2.FONT_HERSHEY_SIMPLEX, 1.5, (255, 255, 255), 4)
    return frames


def test_the_detector_tells_burned_in_text_from_a_passing_sign() -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    text = Text()
    scenes = panned(9, count=3, step=60.0, height=288, width=512) // 3
    plain, burned, passing = (
        text.score(iter(frames))
        for frames in (scenes, written(scenes.copy(), steps=0), written(scenes.copy(), steps=40))
    )
    assert plain["overlay_text_share"] == 0.0
    assert burned["overlay_text_share"] > 0.03 > burned["scene_text_share"]
    assert passing["scene_text_share"] > 0.03 > passing["overlay_text_share"]


def five_layers(width: int) -> dict[str, torch.Tensor]:
    sizes = [width, 1024, 128, 64, 16, 1]
    names = [f"layers.{number}" for number in (0, 2, 4, 6, 7)]
    shapes = list(zip(names, sizes, sizes[1:], strict=False))
    return {f"{name}.weight": torch.randn(after, before) / before**0.5 for name, before, after in shapes} | {
        f"{name}.bias": torch.randn(after) for name, _, after in shapes
    }


def test_both_published_heads_score_what_the_encoder_sees(clip_folder: Path) -> None:
    looks = panned(2, count=3, step=9.0, height=90, width=160)
    linear = {"weight": torch.randn(1, 24), "bias": torch.randn(1)}
    clip = CLIPModel.from_pretrained(clip_folder / aesthetics.CLIP_FOLDER).eval()
    pixels = torch.stack([to_pixels(image, side=32) for image in looks])
    with torch.inference_mode():
        seen = torch.nn.functional.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output), dim=-1)
    for tensors in (linear, five_layers(24)):
        save_file(tensors, clip_folder / aesthetics.HEAD_FILE)
        expected = seen
        for name in sorted({key.rpartition(".")[0] for key in tensors}):
            prefix = f"{name}." if name else ""
            expected = expected @ tensors[f"{prefix}weight"].T + tensors[f"{prefix}bias"]
        found = Aesthetics(str(clip_folder)).score(iter(looks))
        assert found["aesthetic_score"] == pytest.approx(float(expected.mean()), rel=1e-4, abs=1e-5)


def test_weights_that_are_missing_or_do_not_fit_are_said_to_be_so(clip_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"clip/config\.json"):
        aesthetics.require(str(tmp_path))
    save_file(five_layers(768), tmp_path / "head.safetensors")
    with pytest.raises(WeightsError, match="24 channels"):
        load_head(tmp_path / "head.safetensors", width=24)


def test_pictures_are_prepared_as_clip_was_trained() -> None:
    from transformers import CLIPImageProcessor

    image = panned(4, count=1, step=1.0, height=120, width=200)[0]
    theirs = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})(
        image, return_tensors="pt"
    )["pixel_values"][0]
    assert (to_pixels(image, side=32) - theirs).abs().max() < 0.03
