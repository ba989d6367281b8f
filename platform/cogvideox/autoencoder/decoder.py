"""Turns latents, chunk by chunk, into pixels."""

from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.autoencoder.config import AutoencoderConfig
from cogvideox.autoencoder.layers import (
    CausalConv3d,
    Condition,
    ConditionedNorm,
    ResidualBlock,
    Upsample,
    Video,
    norm_silu_conv,
)
from cogvideox.autoencoder.stream import Stream


class DecoderStage(nn.Module):
    """Residual blocks at one resolution, then the step to the next."""

    def __init__(self, in_channels: int, out_channels: int, *, config: AutoencoderConfig, level: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(
                in_channels if layer == 0 else out_channels,
                out_channels,
                groups=config.norm_groups,
                eps=config.norm_eps,
                condition_channels=config.latent_channels,
            )
            for layer in range(config.layers_per_block + 1)
        )
        last = level == len(config.block_widths) - 1
        self.upsample = None if last else Upsample(out_channels, expand_time=level < config.temporal_stages)

    def forward(self, hidden: Video, latent: Condition, stream: Stream) -> Float[Tensor, "b c2 t2 h2 w2"]:
        for block in self.blocks:
            hidden = block(hidden, latent, stream)
        return hidden if self.upsample is None else self.upsample(hidden, stream)


class Decoder(nn.Module):
    """One chunk of latents ``b 16 t h w`` to pixels ``b 3 t' 8h 8w``; every norm is conditioned on the latent."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths = config.block_widths[::-1]
        groups, eps, channels = config.norm_groups, config.norm_eps, config.latent_channels
        self.conv_in = CausalConv3d(config.latent_channels, widths[0])
        self.middle = nn.ModuleList(
            ResidualBlock(widths[0], widths[0], groups=groups, eps=eps, condition_channels=channels) for _ in range(2)
        )
        self.stages = nn.ModuleList(
            DecoderStage(widths[max(level - 1, 0)], width, config=config, level=level)
            for level, width in enumerate(widths)
        )
        self.norm_out = ConditionedNorm(widths[-1], groups=groups, eps=eps, condition_channels=channels)
        self.conv_out = CausalConv3d(widths[-1], config.pixel_channels)

    def forward(self, latent: Float[Tensor, "b c t h w"], stream: Stream) -> Float[Tensor, "b 3 t2 h2 w2"]:
        hidden = self.conv_in(latent, stream)
        for block in self.middle:
            hidden = block(hidden, latent, stream)
        for stage in self.stages:
            hidden = stage(hidden, latent, stream)
        return norm_silu_conv(hidden, self.norm_out, self.conv_out, condition=latent, stream=stream)
