"""A model inside vLLM's engine, where vLLM is installed: batches are formed by the engine itself."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

from data_pipeline.captions.asks import Answer, Ask, Sampling
from data_pipeline.captions.pictures import chat_messages
from data_pipeline.captions.settings import ModelSettings
from groundwork.errors import RecipeError


def require() -> None:
    """Raises RecipeError when vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RecipeError(
            "captions: backend vllm is asked for, but vLLM is not installed.",
            "pip install vllm (it brings its own torch), or serve the model elsewhere and use backend endpoint.",
        )


class VllmModel:
    """The engine; frames go in as pictures, by the chat interface that vLLM shares with its HTTP server."""

    def __init__(self, settings: ModelSettings) -> None:
        require()
        import vllm

        self._version = f"vllm {vllm.__version__}"
        self._quality = settings.endpoint.jpeg_quality
        self._engine: Any = vllm.LLM(
            model=settings.model,
            revision=settings.revision or None,
            dtype=settings.dtype,
            limit_mm_per_prompt={"image": settings.num_frames},
        )
        self._busy = threading.Lock()

    @property
    def version(self) -> str:
        return self._version

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        """All asks at once; each draws with its own seed."""
        from vllm import SamplingParams

        talks = [chat_messages(ask, quality=self._quality) for ask in asks]
        drawn = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=ask.seed,
            )
            for ask in asks
        ]
        with self._busy:
            made = self._engine.chat(talks, sampling_params=drawn, use_tqdm=False)
        return [
            Answer(
                one.outputs[0].text.strip(),
                cut_off=one.outputs[0].finish_reason == "length",
                input_tokens=len(one.prompt_token_ids),
                output_tokens=len(one.outputs[0].token_ids),
            )
            for one in made
        ]
