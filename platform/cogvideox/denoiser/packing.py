"""Describes several clips laid end to end in one row of tokens: lengths, borders, positions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.patches import check_latent
from cogvideox.denoiser.positions import Grid


class Row:
    """Tokens in runs of one clip and one modality each, the segments: text 0, video 0, text 1, ..."""

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens per segment."""
        raise NotImplementedError

    @property
    def segments(self) -> tuple[slice, ...]:
        """Where the segments lie in the row."""
        borders = list(accumulate(self.segment_lengths, initial=0))
        return tuple(slice(a, b) for a, b in pairwise(borders))

    def segment_of_token(self, device: torch.device) -> Int[Tensor, " n"]:
        """Index of its segment for every token."""
        lengths = torch.tensor(self.segment_lengths, device=device)
        return torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)


@dataclass(frozen=True)
class VideoRow(Row):
    """Video tokens alone: every text segment is empty."""

    video_lengths: tuple[int, ...]

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens per segment."""
        return [length for video in self.video_lengths for length in (0, video)]


@dataclass(frozen=True)
class Layout(Row):
    """Order of tokens in a row: text of clip 0, video of clip 0, text of clip 1, ..."""

    text_lengths: tuple[int, ...]
    grids: tuple[Grid, ...]

    @property
    def num_clips(self) -> int:
        """Clips in the row."""
        return len(self.grids)

    @property
    def clip_lengths(self) -> tuple[int, ...]:
        """Tokens per clip, text and video together: attention stays inside these."""
        return tuple(text + grid.num_tokens for text, grid in zip(self.text_lengths, self.grids, strict=True))

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens per segment."""
        return [n for text, grid in zip(self.text_lengths, self.grids, strict=True) for n in (text, grid.num_tokens)]

    @property
    def video_lengths(self) -> list[int]:
        """Video tokens per clip."""
        return [grid.num_tokens for grid in self.grids]

    @property
    def num_tokens(self) -> int:
        """Length of the row."""
        return sum(self.clip_lengths)

    def cu_seqlens(self, device: torch.device) -> Int[Tensor, " borders"]:
        """Borders between clips, from 0 to the number of tokens, as variable-length attention wants them."""
        return torch.tensor(list(accumulate(self.clip_lengths, initial=0)), dtype=torch.int32, device=device)


@dataclass(frozen=True)
class PackedBatch:
    """Several clips of any length and size for one denoiser call, each with its own text and timestep.

    latents: per clip [c, t, h, w], noisy (and image channels behind them where the denoiser takes them);
    timesteps: [clips] integers in 0..999; text_embeddings: per clip [n, text_width].
    """

    latents: tuple[Float[Tensor, "c _ _ _"], ...]
    timesteps: Int[Tensor, " clips"]
    text_embeddings: tuple[Float[Tensor, "_ d"], ...]

    def __post_init__(self) -> None:
        counts = (len(self.latents), len(self.text_embeddings), self.timesteps.shape[0])
        if len(set(counts)) != 1 or not counts[0]:
            raise ValueError(
                f"a pack needs one latent, text and timestep per clip: got {counts[0]} latents, {counts[1]} texts, "
                f"{counts[2]} timesteps"
            )

    def __len__(self) -> int:
        return len(self.latents)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> PackedBatch:
        """The same pack elsewhere; `dtype` applies to latents and text, never to timesteps."""
        return replace(
            self,
            latents=tuple(x.to(device=device, dtype=dtype) for x in self.latents),
            text_embeddings=tuple(x.to(device=device, dtype=dtype) for x in self.text_embeddings),
            timesteps=self.timesteps.to(device),
        )

    def layout(self, config: DenoiserConfig) -> Layout:
        """Lengths and grids of the row that `config`'s denoiser makes of this pack."""
        return Layout(
            text_lengths=tuple(text.shape[0] for text in self.text_embeddings),
            grids=tuple(check_latent(tuple(latent.shape), config) for latent in self.latents),
        )

    def cu_seqlens(self, config: DenoiserConfig) -> Int[Tensor, " borders"]:
        """Borders between clips in tokens."""
        return self.layout(config).cu_seqlens(self.timesteps.device)

    def split(self) -> Iterator[PackedBatch]:
        """Packs of one clip each."""
        for index in range(len(self)):
            yield PackedBatch(
                latents=(self.latents[index],),
                timesteps=self.timesteps[index : index + 1],
                text_embeddings=(self.text_embeddings[index],),
            )
