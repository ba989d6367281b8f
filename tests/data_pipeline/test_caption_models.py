"""Captioning models inside this process: true classes from disk, batches that do not change answers, video layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from support import tiny_vlms

from data_pipeline.captions.asks import Ask, Sampling
from data_pipeline.captions.frames import instants, read_frames, scaled, to_inputs
from data_pipeline.captions.local_models import LocalModel
from data_pipeline.captions.models import identity, load_model, require, words
from data_pipeline.captions.processors import can_show_video, load_processor
from data_pipeline.captions.settings import EndpointSettings, ModelSettings
from groundwork.errors import MediaError, RecipeError

GREEDY = Sampling(max_new_tokens=6)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vlms.save_qwen2_5_vl(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_vlms.save_llava_onevision(tmp_path_factory.mktemp("llava")))


def ask(num_frames: int, prompt: str = "Describe it.", *, first: int = 0) -> Ask:
    numbers = np.random.default_rng(num_frames + first)
    frames = [numbers.integers(0, 255, (56, 84, 3), dtype=np.uint8) for _ in range(num_frames)]
    return Ask(prompt, frames=frames, seconds=[float(second) for second in range(num_frames)], seed=first)


@pytest.mark.parametrize("family", ["qwen", "llava"])
@pytest.mark.parametrize("shown_as", ["video", "pictures"])
def test_a_batch_gives_the_answers_that_each_clip_gets_alone(
    family: str, shown_as: str, request: pytest.FixtureRequest
) -> None:
    settings = ModelSettings(model=request.getfixturevalue(family), shown_as=shown_as)
    model = load_model(settings, device="cpu")
    asks = [ask(4), ask(3, "What happens, and where, and who is it?", first=1), ask(4, "Say more about it.", first=2)]
    together = model.answer(asks, GREEDY)
    assert together == [model.answer([one], GREEDY)[0] for one in asks]
    assert all(answer.text and answer.output_tokens <= 6 and answer.input_tokens > 10 for answer in together)
    assert all(answer.cut_off == (answer.output_tokens == 6) for answer in together)


def test_drawing_is_repeatable_and_another_seed_draws_otherwise(qwen: str) -> None:
    model = load_model(ModelSettings(model=qwen), device="cpu")
    drawing = Sampling(max_new_tokens=12, temperature=1.5)
    state = torch.get_rng_state()
    first = model.answer([ask(3)], drawing)
    assert model.answer([ask(3)], drawing) == first
    other = Ask("Describe it.", frames=ask(3).frames, seconds=ask(3).seconds, seed=99)
    assert model.answer([other], drawing)[0].text != first[0].text
    assert torch.equal(torch.get_rng_state(), state)


def test_a_language_model_answers_without_frames(tmp_path: Path) -> None:
    model = LocalModel(ModelSettings(model=str(tiny_vlms.save_llama(tmp_path))), device="cpu")
    asks = [Ask("second 0: a dog", system="Sum up."), Ask("second 0: a red car, second 2: a bus that stops")]
    assert model.answer(asks, GREEDY) == [model.answer([one], GREEDY)[0] for one in asks]


def test_qwens_video_input_is_that_of_its_own_processor(qwen: str) -> None:
    """Against the published layout, written down once more: two frames and a square of pixels in each patch, patches in
    blocks of the 2 x 2 that are merged."""
    processor = load_processor(qwen)
    assert can_show_video(processor)
    shown = ask(5)
    batch = to_inputs(processor, [shown], as_video=True)
    assert batch["video_grid_thw"].tolist() == [[3, 4, 6]]
    frames = np.stack([*shown.frames, shown.frames[-1]])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std"))
    pixels = (pixels - mean[:, None, None]) / deviation[:, None, None]
    wanted = rearrange(pixels, "(t p) c (h m a) (w n b) -> (t h w m n) (c p a b)", p=2, m=2, n=2, a=14, b=14)
    torch.testing.assert_close(batch["pixel_values_videos"], wanted, atol=1e-5, rtol=1e-5)
    assert int((batch["input_ids"] == processor.video_token_id).sum()) == 3 * 4 * 6 // 4
    assert batch["second_per_grid_ts"] == pytest.approx([2.0])


def test_llavas_video_input_is_squares_and_pools_to_fewer_tokens(llava: str) -> None:
    processor = load_processor(llava)
    video = to_inputs(processor, [ask(4), ask(4, first=1)], as_video=True)
    assert video["pixel_values_videos"].shape == (2, 4, 3, 56, 56)
    pictures = to_inputs(processor, [ask(4)], as_video=False)
    assert video["input_ids"].shape[1] < pictures["input_ids"].shape[1]


def test_inputs_are_padded_left_to_generate_and_right_to_train(qwen: str) -> None:
    processor = load_processor(qwen)
    asks = [ask(2), ask(2, "A much longer question about what is seen here.", first=1)]
    open_ = to_inputs(processor, asks, as_video=True)
    assert open_["attention_mask"][0, 0] == 0
    assert open_["attention_mask"][0, -1] == 1
    closed = to_inputs(processor, asks, as_video=True, answers=["a red car", "a dog"])
    assert closed["attention_mask"][0, 0] == 1
    assert "a red car" in processor.batch_decode(closed["input_ids"])[0]


def test_instants_are_spread_or_spaced() -> None:
    assert instants(ModelSettings(num_frames=4), 2.0) == [0.25, 0.75, 1.25, 1.75]
    spaced = ModelSettings(frames="spaced", spacing_seconds=2.0)
    assert instants(spaced, 6.0) == [0.0, 2.0, 4.0]
    assert instants(spaced, 6.1) == [0.0, 2.0, 4.0, 6.0]
    assert instants(spaced, 0.5) == [0.0]
    assert len(instants(spaced.model_copy(update={"num_frames": 3}), 60.0)) == 3


def test_one_pass_gives_every_model_the_frames_on_display(footage: Path) -> None:
    at = {"video": [0.0, 0.5, 1.0], "image": [0.0, 1.0]}
    seen = read_frames(footage / "bunny.mp4", start_seconds=1.0, stop_seconds=2.5, at=at, short_side=90)
    assert [len(seen["video"]), len(seen["image"])] == [3, 2]
    assert seen["video"][0] is seen["image"][0]
    assert min(seen["video"][0].shape[:2]) == 90
    late = read_frames(footage / "bunny.mp4", start_seconds=1.48, stop_seconds=2.5, at={"one": [0.02]}, short_side=90)
    assert np.array_equal(seen["video"][1], late["one"][0])
    assert scaled(seen["video"], 45)[0].shape == (45, 80, 3)
    with pytest.raises(MediaError, match="holds no frame"):
        read_frames(footage / "bunny.mp4", start_seconds=900.0, stop_seconds=901.0, at=at, short_side=90)


def test_what_decides_the_answers_is_its_identity(qwen: str, tmp_path: Path) -> None:
    mine = ModelSettings(model=qwen)
    assert identity(mine) == identity(mine.model_copy(update={"endpoint": EndpointSettings(concurrency=3)}))
    assert identity(mine)["weights"]
    assert identity(mine) != identity(mine.model_copy(update={"prompt": "Say it otherwise."}))
    assert words("image", mine)[0].startswith("Describe this picture")
    assert words("language", mine)[1]


def test_the_base_of_an_adapter_is_part_of_its_identity(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = identity(ModelSettings(model=str(adapter)))["weights"]
    (base / "model.safetensors").write_bytes(b"other")
    assert identity(ModelSettings(model=str(adapter)))["weights"] != before
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/model"}))
    assert identity(ModelSettings(model=str(adapter)))["weights"]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        (ModelSettings(), "has no name"),
        (ModelSettings(model="m", backend="vllm"), "not installed"),
        (ModelSettings(model="THUDM/cogvlm2-llama3-caption", backend="cogvlm2"), "must name a commit"),
        (ModelSettings(model=".", backend="cogvlm2", num_frames=30), "24 frames"),
        (ModelSettings(model="m", backend="endpoint"), "needs endpoint.url"),
        (ModelSettings(model="no.such.module:thing", backend="python"), "no module:factory"),
        (
            ModelSettings(
                model="m", backend="endpoint", endpoint=EndpointSettings(url="http://x/v1", api_key_env="NO_SUCH_KEY")
            ),
            "NO_SUCH_KEY",
        ),
    ],
)
def test_a_model_that_cannot_be_had_is_told_before_anything_is_read(settings: ModelSettings, match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        require("video", settings)


def test_a_folder_without_a_model_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be loaded"):
        load_model(ModelSettings(model=str(tmp_path)), device="cpu")
