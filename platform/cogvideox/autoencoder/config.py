"""The numbers that describe one 3D causal autoencoder."""

from dataclasses import dataclass


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of the 3D causal VAE; the defaults are the published ones (paper section 2.1, released weights).

    ``block_widths`` are the encoder's channel widths from pixels to latents: every width but the last ends in a
    two-fold spatial reduction, and the first ``log2(temporal_compression)`` of those reduce time as well.
    The decoder mirrors them and has one residual block more per stage.
    """

    block_widths: tuple[int, ...] = (128, 256, 256, 512)
    layers_per_block: int = 3
    latent_channels: int = 16
    pixel_channels: int = 3
    norm_groups: int = 32
    norm_eps: float = 1e-6
    temporal_compression: int = 4

    def __post_init__(self) -> None:
        if len(self.block_widths) < 2 or any(width % self.norm_groups for width in self.block_widths):
            raise ValueError(
                f"block_widths={self.block_widths}: at least two, each a multiple of norm_groups={self.norm_groups}"
            )
        if self.temporal_compression not in {2**level for level in range(len(self.block_widths))}:
            raise ValueError(
                f"temporal_compression={self.temporal_compression}: a power of two up to {self.spatial_compression}"
            )

    @property
    def spatial_compression(self) -> int:
        """Pixels per latent row or column."""
        return int(2 ** (len(self.block_widths) - 1))

    @property
    def temporal_stages(self) -> int:
        """How many of the first stages (encoder and decoder, each in its execution order) change the frame rate."""
        return self.temporal_compression.bit_length() - 1
