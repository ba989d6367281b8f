"""Sets a fresh autoencoder to a good starting point: a plain image pyramid that training then refines."""

import torch
from cogvideox.autoencoder import Autoencoder
from cogvideox.autoencoder.layers import Downsample, ResidualBlock, Upsample
from torch import nn

NOISE = 0.3  # how much of the random kernel stays beside the averaging one


@torch.no_grad()
def start_as_pyramid(autoencoder: Autoencoder) -> None:
    """Residual branches add nothing, downsampling averages 2 x 2 pixels, upsampling repeats them (plus a little noise).

    A deep autoencoder with 48-fold compression otherwise spends its first thousand steps finding that out.
    """
    for module in autoencoder.modules():
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.weight)
            if module.conv2.bias is not None:
                nn.init.zeros_(module.conv2.bias)
        elif isinstance(module, Downsample | Upsample):
            channel = torch.arange(module.in_channels)
            module.weight.mul_(NOISE)
            if isinstance(module, Upsample):
                module.weight[channel, channel, 1, 1] += 1.0
            else:
                module.weight[channel, channel, :2, :2] += 0.25
            if module.bias is not None:
                nn.init.zeros_(module.bias)
