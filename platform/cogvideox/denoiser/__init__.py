"""The expert transformer: predicts the velocity of noisy video latents, one clip size at a time or packed."""

from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.network import Denoiser
from cogvideox.denoiser.packing import PackedBatch

__all__ = ["Denoiser", "DenoiserConfig", "PackedBatch"]
