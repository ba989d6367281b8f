"""CogVLM2-Caption, the model that captioned CogVideoX's later training data: its code comes with its weights.

Called as CogVideo's tools/caption does: one clip at a time, frames as one uint8 tensor [3, t, h, w], the conversation
built by the model's own `build_conversation_input_ids`. At most 24 frames of 224 x 224 pixels; the language model reads
2048 tokens, 64 of them per frame.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from einops import rearrange
from torch import Tensor

from data_pipeline.captions.asks import Answer, Ask, Sampling
from data_pipeline.captions.settings import ModelSettings
from groundwork.errors import RecipeError

PAD_TOKEN = 128002
"""Of the Llama 3 tokenizer, as CogVideo's tool gives it."""
MAX_FRAMES = 24
QUESTION = "Please describe this video in detail."
"""The request of CogVideo's tool; the model was trained on such."""


def require(settings: ModelSettings) -> None:
    """Raises RecipeError where code of an unknown state would be run: a hub id without the commit it is pinned to."""
    if not Path(settings.model).is_dir() and not re.fullmatch(r"[0-9a-f]{40}", settings.revision):
        raise RecipeError(
            f"captions: {settings.model!r} runs code that comes with its weights, so `revision` must name a commit "
            f"(40 hex digits), not {settings.revision!r}.",
            "Read the code at a commit and pin it, or give a local folder.",
        )
    if settings.num_frames > MAX_FRAMES:
        raise RecipeError(f"captions: CogVLM2-Caption sees {MAX_FRAMES} frames at most, not {settings.num_frames}.")


class CogVLM2Caption:
    """The model and its tokenizer. Raises RecipeError when they cannot be loaded."""

    def __init__(self, settings: ModelSettings, *, device: str) -> None:
        require(settings)
        from data_pipeline.captions.local_models import precision

        self._dtype: Any = precision(settings.dtype, device)
        if self._dtype == "auto":  # float16 on GPUs before Ampere
            self._dtype = torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16
        pinned: dict[str, Any] = {"revision": settings.revision or None, "trust_remote_code": True}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(settings.model, **pinned)
            model = transformers.AutoModelForCausalLM.from_pretrained(settings.model, dtype=self._dtype, **pinned)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise RecipeError(
                f"captions: {settings.model!r} cannot be loaded: {error}",
                "Its code was written for an older transformers and wants pytorchvideo, decord and torchvision.",
            ) from error
        self._model: Any = model.to(device).eval()
        self._device = device
        self._busy = threading.Lock()

    @property
    def version(self) -> str:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        """One clip after the other: the model's code takes no batch."""
        return [self._answer(ask, sampling) for ask in asks]

    def _answer(self, ask: Ask, sampling: Sampling) -> Answer:
        video = rearrange(torch.from_numpy(np.stack(list(ask.frames))), "t h w c -> c t h w")
        with self._busy, torch.inference_mode():
            built = self._model.build_conversation_input_ids(
                tokenizer=self._tokenizer, query=ask.prompt, images=[video], history=[], template_version="chat"
            )
            inputs = {name: built[name][None].to(self._device) for name in ("input_ids", "token_type_ids")}
            inputs["attention_mask"] = built["attention_mask"][None].to(self._device)
            inputs["images"] = [[built["images"][0].to(self._device, self._dtype)]]
            torch.manual_seed(ask.seed % 2**31)
            written: Tensor = self._model.generate(**inputs, **_drawing(sampling))
        count = inputs["input_ids"].shape[1]
        new = written[0, count:]
        text = self._tokenizer.decode(new, skip_special_tokens=True).strip()
        return Answer(text, cut_off=len(new) >= sampling.max_new_tokens, input_tokens=count, output_tokens=len(new))


def _drawing(sampling: Sampling) -> dict[str, Any]:
    """Greedy, as the tool's top_k of 1 amounts to, unless a temperature is asked for."""
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling.temperature > 0 else {}
    return {
        "max_new_tokens": sampling.max_new_tokens,
        "pad_token_id": PAD_TOKEN,
        "do_sample": bool(drawn),
        **drawn,
    }
