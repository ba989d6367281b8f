"""Turns an image, or a video, into the scaled latent that a trajectory starts from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.trajectory import Settings
from cogvideox.variants import Variant


@torch.no_grad()
def encode_image(
    autoencoder: Autoencoder, image: UInt8[Tensor, "h w 3"], *, variant: Variant, settings: Settings
) -> Float[Tensor, "1 c 1 h w"]:
    """The scaled latent of a first frame, resized to cover the video's size and cut at the centre."""
    pixels = fit(image[None], height=settings.height, width=settings.width)
    return _encode(autoencoder, pixels) * variant.image_latent_scale


@torch.no_grad()
def encode_video(
    autoencoder: Autoencoder, video: UInt8[Tensor, "t h w 3"], *, variant: Variant, settings: Settings
) -> Float[Tensor, "1 c t h w"]:
    """The scaled latent of a video to start from, fitted like an image. ValueError for another number of frames."""
    if video.shape[0] != settings.num_frames:
        raise ValueError(f"video has {video.shape[0]} frames: num_frames is {settings.num_frames}")
    pixels = fit(video, height=settings.height, width=settings.width)
    return _encode(autoencoder, pixels) * variant.scale_factor


def fit(frames: UInt8[Tensor, "t h w 3"], *, height: int, width: int) -> Float[Tensor, "1 3 t h w"]:
    """Pixels in -1..1 of the wanted size: resized to cover it, then cut at the centre, as in training."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames are {frames.dtype} {tuple(frames.shape)}: must be uint8 with 3 channels last")
    pixels = rearrange(frames, "t h w c -> t c h w").float() / 127.5 - 1
    rows, columns = pixels.shape[-2:]
    if (rows, columns) != (height, width):
        scale = max(height / rows, width / columns)
        size = (max(height, round(rows * scale)), max(width, round(columns * scale)))
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        pixels = pixels[..., top : top + height, left : left + width]
    clip: Tensor = rearrange(pixels, "t c h w -> 1 c t h w")
    return clip


def _encode(autoencoder: Autoencoder, pixels: Float[Tensor, "1 3 t h w"]) -> Float[Tensor, "1 c t h w"]:
    pixels = pixels.to(next(autoencoder.parameters()))
    # The mean, not a draw: the published code draws, but the draw's spread is far below what is visible.
    return autoencoder.encode(pixels).mode().float()
