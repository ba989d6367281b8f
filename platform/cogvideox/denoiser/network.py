"""The expert transformer: noisy latents, timesteps and text embeddings in, velocities out."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from cogvideox.denoiser.block import Block
from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.modulation import Modulation, segment_norm
from cogvideox.denoiser.packing import Layout, PackedBatch, VideoRow
from cogvideox.denoiser.patches import check_latent, missing_frames, pad_front, patchify, unpatchify
from cogvideox.denoiser.positions import identity_rope, rope_table, sincos_table
from cogvideox.denoiser.sequence_parallel import RowShard

_INFERENCE_OFFSET = 2.0  # the "ofs" scalar of 1.5 image-to-video is always 2 at inference (published code)


class Denoiser(nn.Module):
    """CogVideoX's transformer (paper, section 2.2): predicts the velocity of noisy video latents.

    `sequence_group`: workers that hold the same clips and share their rows; None: every row is this worker's own.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        self.sequence_group: dist.ProcessGroup | None = None
        width = config.width
        self.patch_projection = nn.Linear(config.in_channels * config.patch_volume, width)
        self.text_projection = nn.Linear(config.text_width, width)
        self.time_embedding = ScalarEmbedding(width, config.time_width)
        self.offset_embedding = (
            ScalarEmbedding(config.offset_width, config.time_width) if config.offset_width is not None else None
        )
        self.learned_positions = None
        if config.positions == "rope+learned":
            native = (config.in_channels, *_native_size(config))
            num_tokens = config.max_text_tokens + check_latent(native, config).num_tokens
            self.learned_positions = nn.Parameter(torch.zeros(num_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.out_norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.out_modulation = nn.Linear(config.time_width, 2 * width)
        self.out_projection = nn.Linear(width, config.out_channels * config.patch_volume)

    def initialize(self, *, seed: int) -> Denoiser:
        """Weights for training from scratch: Xavier projections, modulations at zero, so each layer starts as identity.

        Returns itself. The same seed gives the same weights on every machine (drawn on the CPU).
        """
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                _initialize(name, parameter, generator=generator)
        return self

    def forward(
        self,
        latent: Float[Tensor, "b c t h w"],
        *,
        timestep: Int[Tensor, " b"],
        text_embedding: Float[Tensor, "b n d"],
        offset: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c_out t h w"]:
        """Velocity of each clip; all clips have one size.

        timestep counts 0..999. For image-to-video c is the noisy channels and then as many of the image. An odd
        number of latent frames is completed by repeating the first where a token holds two (version 1.5); the answer
        has the frames of the question. Raises ValueError for channels or sizes that this denoiser does not take.
        """
        batch, _, num_frames = latent.shape[:3]
        if timestep.shape != (batch,) or text_embedding.shape[0] != batch:
            raise ValueError(
                f"timestep {tuple(timestep.shape)} and text_embedding {tuple(text_embedding.shape)}: "
                f"both must start with the batch size {batch}"
            )
        grid = check_latent(tuple(latent.shape[1:]), self.config)
        layout = Layout((text_embedding.shape[1],) * batch, (grid,) * batch)
        video = self.patch_projection(patchify(pad_front(latent, self.config), self.config))
        tokens = torch.cat((self.text_projection(text_embedding), video), dim=1).flatten(0, 1)
        rows = self._run(tokens, layout=layout, timestep=timestep, offset=offset)
        rows = rearrange(rows, "(b n) f -> b n f", b=batch)
        return unpatchify(rows, grid, self.config)[:, :, missing_frames(num_frames, self.config) :]

    def forward_packed(self, batch: PackedBatch, *, offset: Float[Tensor, " b"] | None = None) -> list[Tensor]:
        """One velocity [c_out, t, h, w] per clip of the pack; each equals the clip's answer alone (paper, 3.1)."""
        layout = batch.layout(self.config)
        tokens: list[Tensor] = []
        # One projection per modality for the whole pack, then clips are laid text first.
        text = self.text_projection(torch.cat(batch.text_embeddings))
        patches = [patchify(pad_front(latent, self.config), self.config) for latent in batch.latents]
        video = self.patch_projection(torch.cat(patches))
        counts = [grid.num_tokens for grid in layout.grids]
        for pair in zip(torch.split(text, list(layout.text_lengths)), torch.split(video, counts), strict=True):
            tokens += pair
        rows = self._run(torch.cat(tokens), layout=layout, timestep=batch.timesteps, offset=offset)
        per_clip = zip(torch.split(rows, counts), layout.grids, batch.latents, strict=True)
        return [
            unpatchify(part, grid, self.config)[:, missing_frames(latent.shape[1], self.config) :]
            for part, grid, latent in per_clip
        ]

    def _run(self, tokens: Tensor, *, layout: Layout, timestep: Tensor, offset: Tensor | None) -> Float[Tensor, "n f"]:
        """Output rows of all video tokens of the row, in order."""
        tokens = self._add_positions(tokens, layout)
        rope = self._rope(layout, tokens.device) if self.config.positions != "sincos" else None
        time = F.silu(self._time(timestep, offset, dtype=tokens.dtype))
        if self.sequence_group is None:
            return self._run_blocks(tokens, time, layout=layout, rope=rope)
        part = RowShard(layout, self.sequence_group)
        rope = rope[part.own] if rope is not None else None
        return part.gather_video(self._run_blocks(tokens[part.own], time, layout=part, rope=rope))

    def _run_blocks(
        self, tokens: Tensor, time: Tensor, *, layout: Layout | RowShard, rope: Tensor | None
    ) -> Float[Tensor, "n f"]:
        for block in self.blocks:
            tokens = block(tokens, time, layout=layout, rope=rope)
        video = torch.cat(torch.split(tokens, layout.segment_lengths)[1::2])
        alone = VideoRow(tuple(layout.video_lengths))
        shift, scale = self.out_modulation(time).chunk(2, dim=-1)
        weight = self.out_norm.weight * (1 + scale)
        bias = torch.addcmul(shift, self.out_norm.bias, 1 + scale)
        # `alone` has an empty text segment before each video segment: the norms are given to both.
        both = Modulation(*(x.repeat_interleave(2, dim=0) for x in (weight, bias, bias)))
        normed = segment_norm(self.final_norm(video), both, layout=alone, eps=self.config.norm_eps)
        rows: Tensor = self.out_projection(normed)
        return rows

    def _time(self, timestep: Tensor, offset: Tensor | None, *, dtype: torch.dtype) -> Float[Tensor, "b time"]:
        time: Tensor = self.time_embedding(timestep, dtype=dtype)
        if self.offset_embedding is None:
            return time
        if offset is None:
            offset = torch.full_like(timestep, _INFERENCE_OFFSET, dtype=torch.float32)
        extra: Tensor = self.offset_embedding(offset, dtype=dtype)
        return time + extra

    def _rope(self, layout: Layout, device: torch.device) -> Float[Tensor, "n pairs 2"]:
        tables = {grid: rope_table(grid, self.config, device=device) for grid in dict.fromkeys(layout.grids)}
        pieces: list[Tensor] = []
        for text_length, grid in zip(layout.text_lengths, layout.grids, strict=True):
            pieces += (identity_rope(text_length, self.config, device=device), tables[grid])
        return torch.cat(pieces)

    def _add_positions(self, tokens: Float[Tensor, "n d"], layout: Layout) -> Float[Tensor, "n d"]:
        if self.config.positions == "rope":
            return tokens
        if self.learned_positions is not None:
            if set(layout.text_lengths) != {self.config.max_text_tokens}:
                raise ValueError(
                    f"text lengths {layout.text_lengths}: learned positions need {self.config.max_text_tokens} tokens"
                )
            return tokens + self.learned_positions.to(tokens.dtype).repeat(layout.num_clips, 1)
        pieces: list[Tensor] = []
        for text_length, grid in zip(layout.text_lengths, layout.grids, strict=True):
            pieces += (
                tokens.new_zeros(text_length, self.config.width),
                sincos_table(grid, self.config, device=tokens.device).to(tokens.dtype),
            )
        return tokens + torch.cat(pieces)


class ScalarEmbedding(nn.Module):
    """A number per clip to a vector: sinusoid (cosines first), linear, SiLU, linear."""

    def __init__(self, sinusoid_width: int, width: int) -> None:
        super().__init__()
        self.sinusoid_width = sinusoid_width
        self.first = nn.Linear(sinusoid_width, width)
        self.second = nn.Linear(width, width)

    def forward(self, value: Tensor, *, dtype: torch.dtype) -> Float[Tensor, "b d"]:
        """Embeds `value` [b]; the sinusoid is made in float32 and cast to `dtype`."""
        half = self.sinusoid_width // 2
        exponent = torch.arange(half, dtype=torch.float32, device=value.device) * (-math.log(10000.0) / half)
        angles = value.float()[:, None] * exponent.exp()
        sinusoid = torch.cat((angles.cos(), angles.sin()), dim=-1).to(dtype)
        embedded: Tensor = self.second(F.silu(self.first(sinusoid)))
        return embedded


def _native_size(config: DenoiserConfig) -> tuple[int, int, int]:
    return (config.sample_frames, config.sample_height, config.sample_width)


def _initialize(name: str, parameter: Tensor, *, generator: torch.Generator) -> None:
    if name == "learned_positions":
        values = torch.randn(parameter.shape, generator=generator) * 0.02
    elif "norm" in name and "modulation" not in name:
        values = torch.ones(parameter.shape) if name.endswith("weight") else torch.zeros(parameter.shape)
    elif "modulation" in name or name.endswith("bias"):
        values = torch.zeros(parameter.shape)
    else:
        fan_out, fan_in = parameter.shape
        bound = math.sqrt(6.0 / (fan_in + fan_out))
        values = (torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound
    parameter.copy_(values)
