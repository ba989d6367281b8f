"""Weights on disk, in published layouts, to modules and back."""

from cogvideox.weights.components import (
    load_autoencoder,
    load_denoiser,
    save_autoencoder,
    save_denoiser,
    toy_autoencoder_folder,
)
from cogvideox.weights.convert import convert
from cogvideox.weights.lora import load_lora, merge_lora, save_lora
from cogvideox.weights.pipeline import load_card, load_text_encoder, save_pipeline

__all__ = [
    "convert",
    "load_autoencoder",
    "load_card",
    "load_denoiser",
    "load_lora",
    "load_text_encoder",
    "merge_lora",
    "save_autoencoder",
    "save_denoiser",
    "save_lora",
    "save_pipeline",
    "toy_autoencoder_folder",
]
