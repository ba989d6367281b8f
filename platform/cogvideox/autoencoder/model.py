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
from cogvideox.autoencoder.tiling import Span, Tiling, blend_, tiles


class Autoencoder(nn.Module):
    """CogVideoX's video autoencoder (paper section 2.1): 8 x 8 x 4 pixels to one latent position of 16 channels.

    Latents here are unscaled; the model card's scale factor is applied where denoiser and autoencoder meet.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def encode(
        self, pixels: Float[Tensor, "b 3 t h w"], *, tiling: Tiling | None = None, slicing: bool = False
    ) -> Posterior:
        """Pixels in -1..1 to the distribution of their latent ``b 16 (t-1)/4+1 h/8 w/8``.

        ``tiling`` bounds memory by the tile, ``slicing`` by one sample of the batch at a time.
        ``ValueError`` when t is not 4N + 1, or h or w not a multiple of 8.
        """
        shape.latent_frames(pixels.shape[2], temporal_compression=self.config.temporal_compression)
        shape.latent_size(pixels.shape[3], pixels.shape[4], spatial_compression=self.config.spatial_compression)
        parts = torch.split(pixels, 1) if slicing else (pixels,)
        return Posterior.from_moments(torch.cat([self._encode(part, tiling) for part in parts]))

    def decode(
        self, latent: Float[Tensor, "b c t h w"], *, tiling: Tiling | None = None, slicing: bool = False
    ) -> Float[Tensor, "b 3 t2 h2 w2"]:
        """Unscaled latents to pixels, about -1..1 (not clamped), ``b 3 4(t-1)+1 8h 8w``.

        With ``tiling`` a tile runs through all frames before the next begins: one tile's memory beside the result.
        """
        self._check(latent)
        if slicing and latent.shape[0] > 1:
            return torch.cat([self.decode(sample, tiling=tiling) for sample in torch.split(latent, 1)])
        if tiling is None:
            return torch.cat(list(self.decode_frames(latent)), dim=2)
        return self._decode_tiled(latent, tiling)

    def decode_frames(
        self, latent: Float[Tensor, "b c t h w"], *, tiling: Tiling | None = None
    ) -> Iterator[Float[Tensor, "b 3 t2 h2 w2"]]:
        """Yields pixels chunk by chunk as they are ready: memory does not grow with the length of the clip.

        With ``tiling`` every tile keeps its own cache between chunks, and activations are those of one tile.
        """
        self._check(latent)
        places = self._tiles(latent, tiling)
        streams = [Stream() for _ in places]
        for start, stop in shape.chunks(latent.shape[2], chunk_frames=shape.DECODE_CHUNK_FRAMES):
            chunk = latent[:, :, start:stop]
            if tiling is None:
                yield self.decode_chunk(chunk, streams[0])
                continue
            canvas = self._canvas(chunk, first=start == 0)
            for (rows, columns), stream in zip(places, streams, strict=True):
                tile = chunk[..., rows.start : rows.stop, columns.start : columns.stop]
                blend_(
                    canvas,
                    self.decode_chunk(tile, stream),
                    rows=rows.times(self._zoom),
                    columns=columns.times(self._zoom),
                )
            yield canvas

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

    @property
    def _zoom(self) -> int:
        return self.config.spatial_compression

    def _check(self, latent: Tensor) -> None:
        if latent.ndim != 5 or latent.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"latent of shape {tuple(latent.shape)}: must be (b, {self.config.latent_channels}, t, h, w)"
            )

    def _tiles(self, latent: Tensor, tiling: Tiling | None) -> list[tuple[Span, Span]]:
        height, width = latent.shape[3:]
        whole = [(Span(0, height, 0, 0), Span(0, width, 0, 0))]
        return whole if tiling is None else list(tiles(height, width, tiling=tiling, compression=self._zoom))

    def _canvas(self, latent: Tensor, *, first: bool) -> Tensor:
        """Zeros for the pixels of these latents."""
        batch, _, frames, height, width = latent.shape
        num_frames = frames * self.config.temporal_compression - (self.config.temporal_compression - 1) * first
        return latent.new_zeros(batch, self.config.pixel_channels, num_frames, height * self._zoom, width * self._zoom)

    def _encode(self, pixels: Tensor, tiling: Tiling | None) -> Tensor:
        chunks = shape.chunks(pixels.shape[2], chunk_frames=shape.ENCODE_CHUNK_FRAMES)
        frames = shape.latent_frames(pixels.shape[2], temporal_compression=self.config.temporal_compression)
        small = pixels.new_empty(1, 1, frames, pixels.shape[3] // self._zoom, pixels.shape[4] // self._zoom)
        moments: Tensor | None = None
        for rows, columns in self._tiles(small, tiling):
            tall, wide, stream = rows.times(self._zoom), columns.times(self._zoom), Stream()
            tile = pixels[..., tall.start : tall.stop, wide.start : wide.stop]
            part = torch.cat([self.encode_chunk(tile[:, :, start:stop], stream) for start, stop in chunks], dim=2)
            if tiling is None:
                return part
            if moments is None:
                moments = part.new_zeros(*part.shape[:3], *small.shape[3:])
            blend_(moments, part, rows=rows, columns=columns)
        assert moments is not None, "a frame has at least one tile"
        return moments

    def _decode_tiled(self, latent: Tensor, tiling: Tiling) -> Tensor:
        canvas = self._canvas(latent, first=True)
        for rows, columns in self._tiles(latent, tiling):
            tall, wide, done = rows.times(self._zoom), columns.times(self._zoom), 0
            for pixels in self.decode_frames(latent[..., rows.start : rows.stop, columns.start : columns.stop]):
                blend_(canvas[:, :, done : done + pixels.shape[2]], pixels, rows=tall, columns=wide)
                done += pixels.shape[2]
        return canvas
