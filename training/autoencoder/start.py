"""Sets a fresh autoencoder to a good starting point: a plain image pyramid that training then refines."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from cogvideox.autoencoder import Autoencoder, Stream
from cogvideox.autoencoder.layers import Downsample, ResidualBlock, Upsample

NOISE = 0.3  # how much of the random kernel stays beside the averaging one
MEAN_GAIN = 3.0  # brings the first latents to about unit size
LOG_VARIANCE = -6.0  # of the first posteriors: with the usual 0 the noise would drown the latents for hundreds of steps


@torch.no_grad()
def start_as_pyramid(autoencoder: Autoencoder) -> None:
    """Residual branches add nothing, downsampling averages 2 x 2 pixels, upsampling repeats them (plus a little noise).

    The posterior starts narrow. A deep autoencoder with 48-fold compression otherwise spends its first thousand steps
    finding all that out.
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
    last = autoencoder.encoder.conv_out
    mean_rows, log_variance_rows = last.weight.chunk(2)
    mean_rows.mul_(MEAN_GAIN)
    log_variance_rows.mul_(0.1)
    if last.bias is not None:
        last.bias.chunk(2)[1].fill_(LOG_VARIANCE)


@contextmanager
def skeleton(autoencoder: Autoencoder) -> Iterator[None]:
    """For the time of the block residual branches are left out: what they would add is zero at the start anyway.

    Without them a step costs a tenth, so the first few hundred find the coarse colours cheaply.
    """
    blocks = [module for module in autoencoder.modules() if isinstance(module, ResidualBlock)]
    try:
        for block in blocks:
            block.forward = partial(_shortcut_only, block)  # type: ignore[method-assign]
        yield
    finally:
        for block in blocks:
            del block.forward


def _shortcut_only(block: ResidualBlock, inputs: Tensor, condition: Tensor | None, stream: Stream) -> Tensor:  # noqa: ARG001
    return block.shortcut(inputs)  # type: ignore[no-any-return]
