"""A base becomes the model that learns: loaded, with LoRA or with its weights set free, and its processor beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from data_pipeline.captions.local_models import shown_as_video
from data_pipeline.captions.processors import load_processor
from data_pipeline.captions.training.examples import Teacher
from data_pipeline.captions.training.settings import DistilSettings
from groundwork.errors import RecipeError


@dataclass(frozen=True)
class Student:
    """A model in training and what makes its batches."""

    model: Any
    teacher: Teacher


def load_student(settings: DistilSettings, *, device: str) -> Student:
    """The base with what is to be trained: LoRA's matrices, drawn from the seed, or weights set free.

    Raises RecipeError when it cannot be loaded, or has no language model that can be told from the rest.
    """
    processor = load_words(settings)
    model = load_base(settings, dtype=_dtype(settings, device))
    ends = model.generation_config.eos_token_id
    if ends is None:
        raise RecipeError(
            f"{settings.model} does not say which token ends an answer.", "Set it in generation_config.json."
        )
    as_video = settings.task == "caption" and shown_as_video(settings.sees, processor)
    teacher = Teacher(processor, ends=ends if isinstance(ends, list) else [ends], as_video=as_video)
    torch.manual_seed(settings.seed)
    return Student(_with_lora(model, settings) if settings.method == "lora" else _set_free(model, settings), teacher)


def load_words(settings: DistilSettings) -> Any:
    """The processor of a vision-language model, the tokenizer of a language model. Raises RecipeError."""
    load = load_processor if settings.task == "caption" else AutoTokenizer.from_pretrained
    try:
        return load(settings.model, revision=settings.revision or None)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _cannot_load(settings, error) from error


def load_base(settings: DistilSettings, *, dtype: Any) -> Any:
    """The base; `dtype` "auto": as its files have it. Raises RecipeError."""
    kind = AutoModelForImageTextToText if settings.task == "caption" else AutoModelForCausalLM
    revision = settings.revision or None
    try:
        return kind.from_pretrained(settings.model, revision=revision, dtype=dtype, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _cannot_load(settings, error) from error


def uses_bfloat16(settings: DistilSettings, device: str) -> bool:
    """Whether arithmetic is in bfloat16; on a CPU only where that is asked for."""
    able = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.precision == "bfloat16" or (settings.precision == "auto" and able)


def _dtype(settings: DistilSettings, device: str) -> torch.dtype:
    """Of the weights: those that learn are float32, as small steps would vanish in bfloat16."""
    return torch.bfloat16 if settings.method == "lora" and uses_bfloat16(settings, device) else torch.float32


def _with_lora(model: Any, settings: DistilSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=_linear_layers(model, settings),
        task_type="CAUSAL_LM",
        revision=settings.revision or None,
    )
    return get_peft_model(model, config)


def _set_free(model: Any, settings: DistilSettings) -> Any:
    if not settings.vision:
        model.requires_grad_(False)
        _language_model(model).requires_grad_(True)
        model.get_output_embeddings().requires_grad_(True)
    return model


def _linear_layers(model: Any, settings: DistilSettings) -> list[str]:
    """Names of all linear layers of the language model (or of the whole), without the one that gives the words."""
    within = model if settings.vision else _language_model(model)
    inside, last = set(map(id, within.modules())), model.get_output_embeddings()
    layers = model.named_modules()
    return [name for name, part in layers if isinstance(part, nn.Linear) and id(part) in inside and part is not last]


def _language_model(model: Any) -> Any:
    decoder = model.get_decoder()
    if decoder is None or decoder is model:
        raise RecipeError(f"{type(model).__name__}: its language model cannot be told from the rest.", "Use --vision.")
    return decoder


def _cannot_load(settings: DistilSettings, error: Exception) -> RecipeError:
    kind = "a vision-language model" if settings.task == "caption" else "a language model"
    hint = "Give a folder or hub id that transformers can load, on every node."
    return RecipeError(f"--model {settings.model!r} cannot be loaded as {kind}: {error}", hint)
