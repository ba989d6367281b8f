"""Turns pixels, chunk by chunk, into the parameters of the latent's distribution."""

from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.autoencoder.config import AutoencoderConfig
from cogvideox.autoencoder.layers import CausalConv3d, Downsample, PlainNorm, ResidualBlock, Video, norm_silu_conv
from cogvideox.autoencoder.stream import Stream


class EncoderStage(nn.Module):
    """Residual blocks at one resolution, then the step to the next."""

    def __init__(self, in_channels: int, out_channels: int, *, config: AutoencoderConfig, level: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(
                in_channels if layer == 0 else out_channels,
                out_channels,
                groups=config.norm_groups,
                eps=config.norm_eps,
            )
            for layer in range(config.layers_per_block)
        )
        last = level == len(config.block_widths) - 1
        self.downsample = None if last else Downsample(out_channels, compress_time=level < config.temporal_stages)

    def forward(self, hidden: Video, stream: Stream) -> Float[Tensor, "b c2 t2 h2 w2"]:
        for block in self.blocks:
            hidden = block(hidden, None, stream)
        return hidden if self.downsample is None else self.downsample(hidden, stream)


class Encoder(nn.Module):
    """Pixels ``b 3 t h w`` to mean and log-variance ``b 32 t' h/8 w/8`` of one chunk."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_widths
        self.conv_in = CausalConv3d(config.pixel_channels, widths[0])
        self.stages = nn.ModuleList(
            EncoderStage(widths[max(level - 1, 0)], width, config=config, level=level)
            for level, width in enumerate(widths)
        )
        self.middle = nn.ModuleList(
            ResidualBlock(widths[-1], widths[-1], groups=config.norm_groups, eps=config.norm_eps) for _ in range(2)
        )
        self.norm_out = PlainNorm(config.norm_groups, widths[-1], eps=config.norm_eps)
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def forward(self, pixels: Float[Tensor, "b 3 t h w"], stream: Stream) -> Float[Tensor, "b two_c t2 h2 w2"]:
        hidden = self.conv_in(pixels, stream)
        for stage in self.stages:
            hidden = stage(hidden, stream)
        for block in self.middle:
            hidden = block(hidden, None, stream)
        return norm_silu_conv(hidden, self.norm_out, self.conv_out, condition=None, stream=stream)
