"""The tiny checkpoints are what they stand for: true classes from disk, real processor files, the same bytes twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import tiny_vlms
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from data_pipeline.captions.processors import load_processor

VLMS = {
    "qwen2_5_vl": (tiny_vlms.save_qwen2_5_vl, "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLProcessor"),
    "llava_onevision": (
        tiny_vlms.save_llava_onevision,
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionProcessor",
    ),
}


def conversation(num_images: int, text: str) -> list[dict[str, Any]]:
    frames = [np.full((48, 80, 3), 40 * index, np.uint8) for index in range(num_images)]
    images = [{"type": "image", "image": frame} for frame in frames]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


@pytest.mark.parametrize("family", list(VLMS))
def test_a_vlm_reads_several_frames_and_answers(family: str, tmp_path: Path) -> None:
    save, model_class, processor_class = VLMS[family]
    folder = save(tmp_path)
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), load_processor(str(folder))
    assert type(model).__name__ == model_class
    assert type(processor).__name__ == processor_class
    processor.tokenizer.padding_side = "left"
    batch = processor.apply_chat_template(
        [conversation(3, "Describe."), conversation(2, "What happens in these two frames?")],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True},
    )  # fmt: skip
    answer = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert answer.shape[0] == 2
    prompt = processor.batch_decode(batch["input_ids"])
    assert "What happens in these two frames?" in prompt[1]
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist()[0] > 0


def test_a_language_model_has_its_chat_template(tmp_path: Path) -> None:
    folder = tiny_vlms.save_llama(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Sum up: café"}], tokenize=False)
    assert text == "<s>[INST] Sum up: café [/INST]"
    tokens = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    assert tokenizer.decode(tokens["input_ids"][0]) == text
    assert model.generate(**tokens, max_new_tokens=3, do_sample=False).shape[1] <= tokens["input_ids"].shape[1] + 3


def test_encoders_of_pictures_videos_and_texts(tmp_path: Path) -> None:
    frames = [np.full((40, 60, 3), 30 * index, np.uint8) for index in range(8)]
    siglip = tiny_vlms.save_siglip(tmp_path / "siglip")
    pixels = AutoImageProcessor.from_pretrained(siglip)(frames[:2], return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(siglip)(["a red car"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        both = AutoModel.from_pretrained(siglip)(input_ids=tokens["input_ids"], **pixels)
    assert both.logits_per_image.shape == (2, 1)
    videomae = tiny_vlms.save_videomae(tmp_path / "videomae")
    clip = AutoImageProcessor.from_pretrained(videomae)(frames, return_tensors="pt")["pixel_values"]
    rows = AutoModel.from_pretrained(videomae)(clip.reshape(1, 8, 3, 32, 32)).last_hidden_state
    assert rows.shape == (1, 4 * 16, 32)
    t5 = tiny_vlms.save_t5(tmp_path / "t5")
    ids = AutoTokenizer.from_pretrained(t5)("a small white dog", return_tensors="pt")["input_ids"]
    assert ids[0, -1] == 1
    assert AutoModel.from_pretrained(t5).encoder(ids).last_hidden_state.shape == (1, ids.shape[1], 32)


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second = (tiny_vlms.save_qwen2_5_vl(tmp_path / name) for name in ("first", "second"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
