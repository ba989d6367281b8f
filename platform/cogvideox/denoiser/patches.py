"""Turns latents into patch rows for the token projection, and token rows back into latents."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.positions import Grid


def check_latent(shape: tuple[int, ...], config: DenoiserConfig) -> Grid:
    """Grid of the tokens of a latent [c, t, h, w] (an odd frame count is completed to whole patches).

    Raises ValueError for a wrong channel count, a height or width that does not divide into patches, or a size that
    the learned position table does not hold.
    """
    channels, frames, height, width = shape
    if channels != config.in_channels:
        raise ValueError(f"latent has {channels} channels: this denoiser takes {config.in_channels}")
    if height % config.patch_size or width % config.patch_size or min(frames, height, width) < 1:
        raise ValueError(f"latent size {frames}x{height}x{width}: rows and columns must divide by {config.patch_size}")
    native = (config.sample_frames, config.sample_height, config.sample_width)
    if config.positions == "rope+learned" and (frames, height, width) != native:
        raise ValueError(
            f"latent size {frames}x{height}x{width}: this denoiser's learned positions only fit "
            f"{native[0]}x{native[1]}x{native[2]} latent frames, rows and columns"
        )
    patched = -(-frames // config.patch_frames)
    return Grid(patched, height // config.patch_size, width // config.patch_size)


def missing_frames(num_frames: int, config: DenoiserConfig) -> int:
    """Latent frames to repeat at the front until the count divides into patches (version 1.5: 21 -> 22)."""
    return -num_frames % config.patch_frames


def pad_front(latent: Float[Tensor, "*b c t h w"], config: DenoiserConfig) -> Float[Tensor, "*b c t2 h w"]:
    """Repeats the first latent frame at the front until the count divides into patches."""
    missing = missing_frames(latent.shape[-3], config)
    if not missing:
        return latent
    first = latent[..., :1, :, :].expand(*latent.shape[:-3], missing, *latent.shape[-2:])
    return torch.cat((first, latent), dim=-3)


def patchify(latent: Float[Tensor, "*b c t h w"], config: DenoiserConfig) -> Float[Tensor, "*b n f"]:
    """Tokens in (t, h, w) raster order; features ordered channel, frame, row, column, channel slowest."""
    o, p, q = config.patch
    rows: Tensor = rearrange(latent, "... c (t o) (h p) (w q) -> ... (t h w) (c o p q)", o=o, p=p, q=q)
    return rows


def unpatchify(rows: Float[Tensor, "*b n f"], grid: Grid, config: DenoiserConfig) -> Float[Tensor, "*b c t h w"]:
    """The inverse of `patchify` for the output channels."""
    o, p, q = config.patch
    latent: Tensor = rearrange(
        rows,
        "... (t h w) (c o p q) -> ... c (t o) (h p) (w q)",
        t=grid.frames,
        h=grid.height,
        w=grid.width,
        o=o,
        p=p,
        q=q,
    )
    return latent
