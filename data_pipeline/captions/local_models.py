"""Models that transformers runs in this process: vision-language models, and language models for summing up."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from data_pipeline.captions.asks import Answer, Ask, Sampling
from data_pipeline.captions.frames import to_inputs
from data_pipeline.captions.models import adapted_base
from data_pipeline.captions.processors import can_show_video, load_processor
from data_pipeline.captions.settings import ModelSettings
from data_pipeline.fingerprint import short_hash
from groundwork.errors import RecipeError

_NOT_FOR_THE_MODEL = ("video_metadata",)


class LocalModel:
    """Qwen2.5-VL, Qwen3-VL, LLaVA-OneVision, SmolVLM2 and whatever else transformers loads as image-text-to-text; a
    model without eyes is loaded as a language model. Raises RecipeError when it cannot be loaded.

    Safe to be called from several threads: the next batch is prepared while the model is at the one before.
    """

    def __init__(self, settings: ModelSettings, *, device: str) -> None:
        base, revision = adapted_base(settings.model) or (settings.model, settings.revision or None)
        try:
            config = AutoConfig.from_pretrained(base, revision=revision)
            self._sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
            if self._sees:
                self._processor = load_processor(base, revision=revision)
            else:
                self._processor = AutoTokenizer.from_pretrained(base, revision=revision)
            loader = AutoModelForImageTextToText if self._sees else AutoModelForCausalLM
            dtype = precision(settings.dtype, device)
            model = loader.from_pretrained(base, revision=revision, dtype=dtype, use_safetensors=True)
            if base != settings.model:
                model.load_adapter(settings.model)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise RecipeError(
                f"captions: {settings.model!r} cannot be loaded: {error}",
                "Give a folder or hub id that transformers can load, on every node.",
            ) from error
        self._model: Any = model.to(device).eval()
        self._device, self._batch = device, settings.batch
        self._as_video = self._sees and shown_as_video(settings, self._processor)
        # A tokenizer may not be used from two threads at once, nor may the model; but each beside the other.
        self._preparing, self._writing = threading.Lock(), threading.Lock()

    @property
    def version(self) -> str:
        return f"transformers {transformers.__version__}, torch {torch.__version__}"

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        """Answers in the order of the asks, which are taken in batches of equal numbers of frames."""
        found: dict[int, Answer] = {}
        for numbers in _alike(asks, most=self._batch):
            chosen = [asks[number] for number in numbers]
            found |= zip(numbers, self._answer(chosen, sampling), strict=True)
        return [found[number] for number in range(len(asks))]

    def _answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        with self._preparing:
            inputs = {name: value for name, value in self._inputs(asks).items() if name not in _NOT_FOR_THE_MODEL}
        with self._writing:
            written = self._write(inputs, sampling, seed=int(short_hash([ask.seed for ask in asks])[:8], 16))
        with self._preparing:
            texts = self._processor.batch_decode(written, skip_special_tokens=True)
        counts = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            Answer(text.strip(), cut_off=cut_off, input_tokens=count, output_tokens=used)
            for text, count, (used, cut_off) in zip(texts, counts, self._lengths(written, sampling), strict=True)
        ]

    def _inputs(self, asks: Sequence[Ask]) -> Any:
        if self._sees:
            return to_inputs(self._processor, asks, as_video=self._as_video and bool(len(asks[0].frames)))
        talks = [
            [{"role": role, "content": text} for role, text in (("system", ask.system), ("user", ask.prompt)) if text]
            for ask in asks
        ]
        words = self._processor.apply_chat_template(talks, tokenize=False, add_generation_prompt=True)
        return self._processor(words, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False)

    @torch.inference_mode()
    def _write(self, inputs: dict[str, Any], sampling: Sampling, *, seed: int) -> Tensor:
        given = {name: _moved(value, self._device, self._model.dtype) for name, value in inputs.items()}
        config = generation_config(self._model.generation_config, sampling, pad=self._pad())
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            written: Tensor = self._model.generate(**given, generation_config=config)
        return written[:, given["input_ids"].shape[1] :].cpu()

    def _pad(self) -> int:
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)

    def _lengths(self, written: Tensor, sampling: Sampling) -> list[tuple[int, bool]]:
        """Tokens of each answer up to its end, and whether it was cut off before it came to one."""
        ends = self._model.generation_config.eos_token_id
        ended = torch.isin(written, torch.tensor(ends if isinstance(ends, list) else [ends]))
        lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, written.shape[1])
        full = written.shape[1] >= sampling.max_new_tokens
        return [(int(n), full and not bool(any_)) for n, any_ in zip(lengths, ended.any(dim=1), strict=True)]


def shown_as_video(settings: ModelSettings, processor: Any) -> bool:
    """Whether frames are shown as one video. Raises RecipeError where the recipe wants it and the processor cannot."""
    able = can_show_video(processor)
    if settings.shown_as == "video" and not able:
        raise RecipeError(
            f"captions: {settings.model!r} is to be shown videos, which its processor cannot take here.",
            "Install torchvision, or set shown_as to pictures.",
        )
    return able and settings.shown_as != "pictures"


def precision(name: str, device: str) -> Any:
    """What transformers is to load weights as."""
    if name == "auto":
        return torch.float32 if device == "cpu" else "auto"
    return getattr(torch, name)


def generation_config(own: Any, sampling: Sampling, *, pad: int) -> Any:
    """The model's own settings with how this time words are drawn."""
    config = copy.deepcopy(own)
    config.max_new_tokens, config.max_length, config.pad_token_id = sampling.max_new_tokens, None, pad
    config.do_sample = sampling.temperature > 0
    config.temperature = sampling.temperature if config.do_sample else None
    config.top_p = sampling.top_p if config.do_sample else None
    config.top_k = None
    return config


def _alike(asks: Sequence[Ask], *, most: int) -> Iterator[list[int]]:
    """Numbers of the asks with equally many frames, at most so many together."""
    counts = [len(ask.frames) for ask in asks]
    for count in dict.fromkeys(counts):
        numbers = [number for number, own in enumerate(counts) if own == count]
        yield from (numbers[first : first + most] for first in range(0, len(numbers), most))


def _moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)
