"""Measures an autoencoder on footage: PSNR of its reconstruction, spread of its latents."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from cogvideox.autoencoder import Autoencoder
from training.autoencoder.footage import to_pixels


@dataclass(frozen=True)
class Measurement:
    """PSNR in dB over all pixels of all clips (peak 255); the standard deviation of the latents' means."""

    psnr: float
    latent_std: float

    @property
    def scale_factor(self) -> float:
        """What latents are multiplied by to have unit variance."""
        return 1.0 / self.latent_std


@torch.inference_mode()
def measure(
    autoencoder: Autoencoder, clips: Iterable[UInt8[np.ndarray, "t h w 3"]], *, autocast: bool = False
) -> Measurement:
    """Encodes (mode) and decodes every clip, in bfloat16 if ``autocast``. ``ValueError`` when there is none."""
    squared_error, num_values = 0.0, 0
    latent_sum, latent_squares, num_latents = 0.0, 0.0, 0
    for clip in clips:
        pixels = to_pixels(clip)[None]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            latent = autoencoder.encode(pixels).mode()
            decoded = autoencoder.decode(latent)
        error = (decoded.float().clamp(-1, 1) - pixels) * 127.5
        squared_error += float(error.square().sum())
        num_values += error.numel()
        latent_sum += float(latent.double().sum())
        latent_squares += float(latent.double().square().sum())
        num_latents += latent.numel()
    if not num_values:
        raise ValueError("clips is empty: at least one is needed to measure")
    mean = latent_sum / num_latents
    return Measurement(
        psnr=10 * math.log10(255**2 * num_values / squared_error),
        latent_std=math.sqrt(latent_squares / num_latents - mean**2),
    )
