"""The 3D causal VAE: pixels to latents and back."""

from cogvideox.autoencoder.config import AutoencoderConfig
from cogvideox.autoencoder.model import Autoencoder
from cogvideox.autoencoder.posterior import Posterior
from cogvideox.autoencoder.stream import Stream
from cogvideox.autoencoder.tiling import Tiling

__all__ = ["Autoencoder", "AutoencoderConfig", "Posterior", "Stream", "Tiling"]
