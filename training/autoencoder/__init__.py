"""Trains the 3D causal VAE: footage to autoencoder weights."""

from training.autoencoder.recipe import AutoencoderRecipe
from training.autoencoder.trainer import train

__all__ = ["AutoencoderRecipe", "train"]
