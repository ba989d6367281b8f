"""Weights on disk, in published layouts, to modules and back."""

from cogvideox.weights.components import (
    load_autoencoder,
    load_denoiser,
    save_autoencoder,
    save_denoiser,
    toy_autoencoder_folder,
)
from cogvideox.weights.pipeline import load_card, load_text_encoder, save_pipeline

__all__ = [
    "load_autoencoder",
    "load_card",
    "load_denoiser",
    "load_text_encoder",
    "save_autoencoder",
    "save_denoiser",
    "save_pipeline",
    "toy_autoencoder_folder",
]
