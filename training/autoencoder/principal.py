"""Gives a fresh autoencoder latents to begin with: the principal components of its footage's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.autoencoder.layers import ResidualBlock
from training.autoencoder.footage import Reel, frame_indices, to_pixels

_BLOCK = (4, 8, 8)  # pixel frames, rows and columns behind one latent
_LOG_VARIANCE = -6.0
_STEADY = 8.0  # well above what other channels reach


@dataclass(frozen=True)
class PrincipalComponents:
    """A linear encoder of 4 x 8 x 8 blocks: as many directions as there are latent channels, each of unit variance.

    Trained jointly from random weights, encoder and decoder first agree on each block's mean colour and then take
    thousands of steps to agree on a code for anything finer. Latents that carry the finer structure from the first
    step on take that away: 288 steps gave the decoder 21 dB where joint training of the same cost gave 15.
    """

    kernel: Float[Tensor, "c 3 4 8 8"]
    weight: Float[Tensor, " c"]
    """What an error in each latent costs in pixels, relative to the mean."""

    @classmethod
    def of(cls, reels: Sequence[Reel], *, fps: float, latent_channels: int) -> PrincipalComponents:
        """The leading components of all blocks of the footage at `fps`, with signs fixed."""
        blocks = torch.cat([_blocks(reel, fps=fps) for reel in reels])
        _, spread, directions = torch.linalg.svd(blocks, full_matrices=False)
        directions = directions[:latent_channels]
        largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
        unit = spread[:latent_channels] / len(blocks) ** 0.5
        kernel = directions * largest.sign() / unit[:, None]
        kernel = rearrange(kernel, "c (a t h w) -> c a t h w", a=3, t=_BLOCK[0], h=_BLOCK[1], w=_BLOCK[2])
        return cls(kernel, unit / unit.mean())

    def encode(self, pixels: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The latent a clip should have: its first frame fills a block of its own, as in the autoencoder."""
        first = pixels[:, :, :1].expand(-1, -1, _BLOCK[0] - 1, -1, -1)
        latent: Tensor = F.conv3d(torch.cat([first, pixels], dim=2), self.kernel.to(pixels), stride=_BLOCK)
        return latent

    def distance(self, latent: Float[Tensor, "b c t h w"], target: Float[Tensor, "b c t h w"]) -> Float[Tensor, ""]:
        """Mean absolute difference, each channel weighted by what it costs in pixels."""
        return ((latent - target).abs() * self.weight.to(latent)[:, None, None, None]).mean()


def _blocks(reel: Reel, *, fps: float) -> Float[Tensor, "n d"]:
    num_frames = int(reel.seconds[-1] * fps) + 1
    pixels = to_pixels(reel.frames[frame_indices(reel, start_seconds=0.0, num_frames=num_frames, fps=fps)])
    whole = [size // block * block for size, block in zip(pixels.shape[1:], _BLOCK, strict=True)]
    pixels = pixels[:, : whole[0], : whole[1], : whole[2]]
    split = "a (t i) (h j) (w k) -> (t h w) (a i j k)"
    blocks: Tensor = rearrange(pixels, split, i=_BLOCK[0], j=_BLOCK[1], k=_BLOCK[2])
    return blocks


@torch.no_grad()
def prepare(autoencoder: Autoencoder) -> None:
    """Narrow the first posterior, and let a clip's own brightness and colour pass the encoder's last norm.

    A log-variance of 0, as random weights give it, would drown the latents in noise for hundreds of steps. A group norm
    subtracts each clip's mean: with one large constant channel in every group it changes little but the scale.
    """
    encoder = autoencoder.encoder
    last = encoder.conv_out
    last.weight.chunk(2)[1].mul_(0.1)
    assert last.bias is not None
    last.bias.chunk(2)[1].fill_(_LOG_VARIANCE)
    block = encoder.middle[-1]
    assert isinstance(block, ResidualBlock)
    assert block.conv2.bias is not None
    block.conv2.bias[:: block.conv2.out_channels // encoder.norm_out.num_groups] = _STEADY
