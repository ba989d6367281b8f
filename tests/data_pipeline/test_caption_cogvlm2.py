"""CogVLM2-Caption's way of being called, on a folder with code of its own that keeps to the published interface.

The weights cannot be had here: what is seen to work is that code from the folder is loaded, gets what CogVideo's tool
gives it, and that its answer is read.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import tiny_vlms

from data_pipeline.captions.asks import Ask, Sampling
from data_pipeline.captions.cogvlm2 import QUESTION
from data_pipeline.captions.models import load_model, words
from data_pipeline.captions.settings import ModelSettings

CODE = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM


class TinyConfig(LlamaConfig):
    model_type = "tiny_cogvlm2"


class TinyForCausalLM(LlamaForCausalLM):
    config_class = TinyConfig

    def build_conversation_input_ids(self, tokenizer, *, query, history, images, template_version):
        (video,) = images
        assert (template_version, history) == ("chat", [])
        assert video.dtype == torch.uint8 and video.shape[0] == 3 and video.ndim == 4
        ids = torch.tensor(tokenizer(f"{video.shape[1]} {query}")["input_ids"])
        return {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids),
                "images": [video.float() / 255]}

    def generate(self, input_ids, token_type_ids, attention_mask, images, **drawing):
        assert images[0][0].dtype == torch.float32 and token_type_ids.shape == input_ids.shape == attention_mask.shape
        assert drawing == {"max_new_tokens": 5, "pad_token_id": 128002, "do_sample": False}
        return super().generate(input_ids, attention_mask=attention_mask, **{**drawing, "pad_token_id": 0})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    found = tiny_vlms.save_llama(tmp_path / "cogvlm2")
    (found / "tiny_code.py").write_text(CODE)
    config = json.loads((found / "config.json").read_text())
    config |= {
        "model_type": "tiny_cogvlm2",
        "architectures": ["TinyForCausalLM"],
        "auto_map": {"AutoConfig": "tiny_code.TinyConfig", "AutoModelForCausalLM": "tiny_code.TinyForCausalLM"},
    }
    (found / "config.json").write_text(json.dumps(config))
    return found


def test_code_beside_the_weights_gets_the_frames_as_published(folder: Path) -> None:
    settings = ModelSettings(model=str(folder), backend="cogvlm2")
    model = load_model(settings, device="cpu")
    assert words("video", settings) == (QUESTION, "")
    frames = [np.full((224, 300, 3), number, np.uint8) for number in range(24)]
    asks = [Ask(QUESTION, frames=frames[:count], seconds=[float(n) for n in range(count)]) for count in (24, 7)]
    answers = model.answer(asks, Sampling(max_new_tokens=5))
    assert all(1 <= answer.output_tokens <= 5 and answer.input_tokens > 5 for answer in answers)
    assert answers == model.answer(asks, Sampling(max_new_tokens=5))
