"""One layer of the expert transformer: tokens of text and video in, the same tokens changed out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser.attention import Attention
from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.kernels import gelu, linear
from cogvideox.denoiser.modulation import ExpertNorm, add_gated
from cogvideox.denoiser.packing import Layout
from cogvideox.denoiser.sequence_parallel import RowShard
from cogvideox.denoiser.streaming import stream_attention, stream_feed_forward


class FeedForward(nn.Module):
    """Two projections with a tanh-approximated GELU between them, four times the width inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Changed tokens, before the residual."""
        return linear(gelu(linear(tokens, self.up)), self.down)


class Block(nn.Module):
    """Attention and feed-forward, each behind an expert norm and a gate per modality (paper, section 2.2)."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width, time_width, eps = config.width, config.time_width, config.norm_eps
        self.attention_norm = ExpertNorm(width, time_width=time_width, eps=eps)
        self.attention = Attention(config)
        self.feed_forward_norm = ExpertNorm(width, time_width=time_width, eps=eps)
        self.feed_forward = FeedForward(width)

    def forward(
        self,
        tokens: Float[Tensor, "n d"],
        time: Float[Tensor, "b time"],
        *,
        layout: Layout | RowShard,
        rope: Tensor | None,
    ) -> Float[Tensor, "n d"]:
        """The tokens after this layer. Without gradients `tokens` itself is changed, to save memory."""
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            stream_attention(tokens, time, norm=self.attention_norm, attention=self.attention, layout=layout, rope=rope)
            up, down = self.feed_forward.up, self.feed_forward.down
            stream_feed_forward(tokens, time, norm=self.feed_forward_norm, up=up, down=down, layout=layout)
            return tokens
        modulation = self.attention_norm.modulate(time)
        change = self.attention(self.attention_norm(tokens, modulation, layout=layout), layout=layout, rope=rope)
        tokens = add_gated(tokens, change, modulation.gate, layout=layout)
        modulation = self.feed_forward_norm.modulate(time)
        change = self.feed_forward(self.feed_forward_norm(tokens, modulation, layout=layout))
        return add_gated(tokens, change, modulation.gate, layout=layout)
