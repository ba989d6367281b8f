"""The 3D causal VAE: pixels to latents and back, in chunks that carry their cache."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox import shape
from cogvideox.autoencoder.config import AutoencoderConfig
from cogvideox.autoencoder.decoder import Decoder
from cogvideox.autoencoder.encoder import Encoder
from cogvideox.autoencoder.posterior import Posterior
from cogvideox.autoencoder.stream import Stream


class Autoencoder(nn.Module):
    """CogVideoX's video autoencoder (paper section 2.1): 8 x 8 x 4 pixels to one latent position of 16 channels.

    Latents here are unscaled; the model card's scale factor is applied where denoiser and autoencoder meet.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Posterior:
        """Pixels in -1..1 to the distribution of their latent ``b 16 (t-1)/4+1 h/8 w/8``.

        ``ValueError`` when t is not 4N + 1, or h or w not a multiple of 8.
        """
        shape.latent_frames(pixels.shape[2], temporal_compression=self.config.temporal_compression)
        shape.latent_size(pixels.shape[3], pixels.shape[4], spatial_compression=self.config.spatial_compression)
        stream = Stream()
        moments = [
            self.encode_chunk(pixels[:, :, start:stop], stream)
            for start, stop in shape.chunks(pixels.shape[2], chunk_frames=shape.ENCODE_CHUNK_FRAMES)
        ]
        return Posterior.from_moments(torch.cat(moments, dim=2))

    def decode(self, latent: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """Unscaled latents to pixels, about -1..1 (not clamped), ``b 3 4(t-1)+1 8h 8w``."""
        return torch.cat(list(self.decode_frames(latent)), dim=2)

    def decode_frames(self, latent: Float[Tensor, "b c t h w"]) -> Iterator[Float[Tensor, "b 3 t2 h2 w2"]]:
        """Yields pixels chunk by chunk as they are ready: memory does not grow with the length of the clip."""
        if latent.shape[1] != self.config.latent_channels:
            raise ValueError(f"latent has {latent.shape[1]} channels: must be {self.config.latent_channels}")
        stream = Stream()
        for start, stop in shape.chunks(latent.shape[2], chunk_frames=shape.DECODE_CHUNK_FRAMES):
            yield self.decode_chunk(latent[:, :, start:stop], stream)

    def encode_chunk(self, pixels: Float[Tensor, "b 3 t h w"], stream: Stream) -> Float[Tensor, "b two_c t2 h2 w2"]:
        """One chunk of a clip to mean and log-variance (stacked on channels); advances ``stream``."""
        moments = self.encoder(pixels.contiguous(memory_format=torch.channels_last_3d), stream)
        stream.next_chunk()
        return moments  # type: ignore[no-any-return]

    def decode_chunk(self, latent: Float[Tensor, "b c t h w"], stream: Stream) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """One chunk of latents to pixels; advances ``stream``."""
        pixels = self.decoder(latent.contiguous(memory_format=torch.channels_last_3d), stream)
        stream.next_chunk()
        return pixels  # type: ignore[no-any-return]
