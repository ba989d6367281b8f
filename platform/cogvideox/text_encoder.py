"""Turns prompts into text embeddings: T5 for the published models, hashed words for the toy."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.variants import TextConfig

TooLong = Literal["error", "warn"]


class PromptTooLongWarning(UserWarning):
    """A prompt was cut to the model's number of tokens."""


@runtime_checkable
class TextEncoder(Protocol):
    """What generation and the data stages need of a text encoder."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same prompt would give another embedding."""
        ...

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """One embedding per prompt, padded to the model's number of tokens; no mask goes with it."""
        ...


class HashTextEncoder:
    """The toy's encoder, without weights: a word's row is Gaussian, seeded by its hash, plus sin-cos positions.

    Padding rows are zero, so the empty prompt is all zeros. Raises ValueError for a prompt with more words than
    tokens, or cuts it with a PromptTooLongWarning, as `too_long` says.
    """

    def __init__(self, config: TextConfig | None = None, *, too_long: TooLong = "error") -> None:
        self.config = config if config is not None else TextConfig(kind="hash", max_tokens=32, width=256)
        self.too_long = too_long

    @property
    def fingerprint(self) -> str:
        """Names the algorithm and its sizes."""
        return f"hash-1-{self.config.max_tokens}x{self.config.width}"

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """float32 on the CPU, [prompts, max_tokens, width]."""
        rows = torch.zeros(len(prompts), self.config.max_tokens, self.config.width)
        positions = _position_rows(self.config.max_tokens, self.config.width)
        for row, prompt in zip(rows, prompts, strict=True):
            words = re.findall(r"\w+", prompt.lower())
            words = words[: _allowed(len(words), self.config.max_tokens, prompt=prompt, too_long=self.too_long)]
            for index, word in enumerate(words):
                row[index] = _word_row(word, self.config.width) + positions[index]
        return rows


class T5TextEncoder:
    """T5-v1.1-XXL's encoder through transformers, as published: last hidden state, padded, without a mask."""

    def __init__(self, model: Any, tokenizer: Any, *, config: TextConfig, fingerprint: str, too_long: TooLong) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.config, self.too_long = config, too_long
        self._fingerprint = fingerprint

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        config: TextConfig,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        too_long: TooLong = "error",
    ) -> T5TextEncoder:
        """Loads `folder`/text_encoder and `folder`/tokenizer of a diffusers layout; never downloads."""
        from transformers import AutoTokenizer, T5EncoderModel  # seconds to import, needed by this encoder only

        folder = Path(folder)
        model = T5EncoderModel.from_pretrained(folder / "text_encoder", dtype=dtype, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        model.eval().requires_grad_(False).to(device)
        fingerprint = f"t5-{config.max_tokens}-{_folder_digest(folder)}"
        return cls(model, tokenizer, config=config, fingerprint=fingerprint, too_long=too_long)

    @property
    def fingerprint(self) -> str:
        """Changes with the weights' headers, the tokenizer and the number of tokens."""
        return self._fingerprint

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b n d"]:
        """[prompts, max_tokens, 4096] on the model's device. Too long: ValueError or PromptTooLongWarning."""
        limit = self.config.max_tokens
        for prompt, ids in zip(prompts, self.tokenizer(list(prompts))["input_ids"], strict=True):
            _allowed(len(ids), limit, prompt=prompt, too_long=self.too_long)
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )["input_ids"]
        embedding: Tensor = self.model(ids.to(self.model.device))[0]
        return embedding


def _allowed(count: int, limit: int, *, prompt: str, too_long: TooLong) -> int:
    """How many tokens to keep; never fewer than given without saying so."""
    if count <= limit:
        return count
    message = f"the prompt has {count} tokens, {count - limit} more than the {limit} of this model: {prompt[:80]!r}"
    if too_long == "error":
        raise ValueError(message)
    warnings.warn(message + " is cut", PromptTooLongWarning, stacklevel=3)
    return limit


@lru_cache(maxsize=4096)
def _word_row(word: str, width: int) -> Float[Tensor, " d"]:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 1
    return torch.randn(width, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=8)
def _position_rows(num_tokens: int, width: int) -> Float[Tensor, "n d"]:
    rates = 10000.0 ** (-torch.arange(width // 2) / (width // 2))
    angles = torch.outer(torch.arange(num_tokens, dtype=torch.float32), rates)
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def _folder_digest(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*(folder / "text_encoder").iterdir(), *(folder / "tokenizer").iterdir()]):
        digest.update(f"{path.name}:{path.stat().st_size}".encode())
        with path.open("rb") as file:  # a safetensors file opens with its table of tensors
            digest.update(file.read(1 << 20))
    return digest.hexdigest()
