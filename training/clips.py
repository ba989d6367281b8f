"""Clips of a dataset as tensors: what the denoiser is trained on, the most recently used kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from cogvideox.objective import noise_for
from groundwork.errors import InputError, StorageError
from groundwork.latents import IndexedClip, StoredClip, to_torch

_CACHE_BYTES = 512 << 20


@dataclass(frozen=True)
class EncodedClip:
    """A clip as the denoiser sees it: scaled latent and text embedding, both bfloat16 as stored.

    `log_variance`: where the dataset holds moments; `latent` is the mean then. `damaged`: why the stored row cannot be
    used; latent and text are zeros then, and the clip must not count.
    """

    latent: Float[Tensor, "c t h w"]
    text_embedding: Float[Tensor, "n d"]
    log_variance: Float[Tensor, "c t h w"] | None = None
    damaged: str = ""

    @property
    def num_bytes(self) -> int:
        variance = 0 if self.log_variance is None else self.log_variance.nbytes
        return self.latent.nbytes + self.text_embedding.nbytes + variance

    def draw(self, *, seed: int, step: int, name: str) -> Float[Tensor, "c t h w"]:
        """The latent to train on, float32: the stored one, or a sample that (seed, step, name) decide."""
        latent = self.latent.float()
        if self.log_variance is None:
            return latent
        noise = noise_for(seed, step, f"{name}/posterior", latent[None].shape)[0]
        return latent + torch.exp(0.5 * self.log_variance.float()) * noise


class StoredClips(Protocol):
    """Clips that are read by number: of one dataset or of several."""

    index: tuple[IndexedClip, ...]

    def read(self, number: int, *, caption: int = 0) -> StoredClip:
        """As `LatentDataset.read`."""

    def captions(self, number: int) -> tuple[str, ...]:
        """As `LatentDataset.captions`."""


class ClipReader:
    """Reads clips by number; the most recently used stay in memory."""

    def __init__(self, stored: StoredClips, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._stored = stored
        self._cache: OrderedDict[tuple[int, int], EncodedClip] = OrderedDict()
        self._cached_bytes, self._cache_bytes = 0, cache_bytes

    def read(self, number: int, *, caption: int = 0) -> EncodedClip:
        """The clip's tensors, with one of its captions (0: the first); zeros, with the reason, where its row is damaged
        or is not what the index says. Raises InputError when storage cannot be read."""
        key = (number, caption)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        clip = self._read(number, caption=caption)
        self._cache[key] = clip
        self._cached_bytes += clip.num_bytes
        while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.num_bytes
        return clip

    def _read(self, number: int, *, caption: int) -> EncodedClip:
        try:
            stored = self._stored.read(number, caption=caption)
        except InputError as error:
            if isinstance(error.__cause__, StorageError):
                raise  # a read that failed may succeed another time: what a run is made of must not hang on it
            known = self._stored.index[number]
            latent, text = (
                torch.zeros(shape, dtype=torch.bfloat16) for shape in (known.latent_shape, known.text_shape)
            )
            return EncodedClip(latent, text, damaged=error.message)
        return EncodedClip(
            latent=to_torch(stored.latent),
            text_embedding=to_torch(stored.text_embedding),
            log_variance=None if stored.log_variance is None else to_torch(stored.log_variance),
        )
