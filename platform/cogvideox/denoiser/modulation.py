"""Turns the timestep's vector into the layer norms and gates of text and video: expert adaptive LayerNorm."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser.packing import Row

# Beyond this many runs of tokens a gather over tokens is cheaper than one kernel per run.
_MAX_LOOPED_SEGMENTS = 32


class Modulation(NamedTuple):
    """Per segment (text 0, video 0, text 1, ...): weight and bias of its layer norm, and its residual gate."""

    weight: Float[Tensor, "segments d"]
    bias: Float[Tensor, "segments d"]
    gate: Float[Tensor, "segments d"]


class ExpertNorm(nn.Module):
    """A layer norm that text and video share, with a shift, scale and gate of their own (paper, section 2.2).

    LN(x)·(1+scale)+shift, with LN's own weight w and bias b, is one layer norm of weight w·(1+scale) and bias
    b·(1+scale)+shift: so modulation costs no pass over the tokens.
    """

    def __init__(self, width: int, *, time_width: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)
        self.modulation = nn.Linear(time_width, 6 * width)

    def modulate(self, time: Float[Tensor, "b time"]) -> Modulation:
        """The norms and gates for the timesteps of all clips; `time` has passed its SiLU."""
        # Published order: video shift, scale, gate, then text shift, scale, gate. Segments have text first.
        parts = rearrange(self.modulation(time), "b (modality part d) -> part b modality d", modality=2, part=3)
        shift, scale, gate = parts.flip(2).flatten(1, 2)
        return Modulation(self.norm.weight * (1 + scale), torch.addcmul(shift, self.norm.bias, 1 + scale), gate)

    def forward(self, tokens: Float[Tensor, "n d"], modulation: Modulation, *, layout: Row) -> Float[Tensor, "n d"]:
        """Every segment normalised by its own weight and bias."""
        return segment_norm(tokens, modulation, layout=layout, eps=self.norm.eps)


def segment_norm(
    tokens: Float[Tensor, "n d"], modulation: Modulation, *, layout: Row, eps: float
) -> Float[Tensor, "n d"]:
    """Layer norm with a weight and bias per segment."""
    weight, bias, _ = modulation
    width = tokens.shape[-1:]
    if len(layout.segment_lengths) <= _MAX_LOOPED_SEGMENTS:
        parts = zip(torch.split(tokens, layout.segment_lengths), weight, bias, strict=True)
        return torch.cat([F.layer_norm(part, width, w, b, eps) for part, w, b in parts])
    segment = layout.segment_of_token(tokens.device)
    return torch.addcmul(bias[segment], F.layer_norm(tokens, width, eps=eps), weight[segment])


def add_gated(
    tokens: Float[Tensor, "n d"], change: Float[Tensor, "n d"], gate: Float[Tensor, "segments d"], *, layout: Row
) -> Float[Tensor, "n d"]:
    """tokens + gate·change with a gate per segment."""
    if len(layout.segment_lengths) <= _MAX_LOOPED_SEGMENTS:
        # Split, not slices: the gradient of a slice is as large as the whole row.
        halves = (torch.split(x, layout.segment_lengths) for x in (tokens, change))
        return torch.cat([torch.addcmul(*parts) for parts in zip(*halves, gate, strict=True)])
    return torch.addcmul(tokens, change, gate[layout.segment_of_token(tokens.device)])
