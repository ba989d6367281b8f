"""One layer of the expert transformer: tokens of text and video in, the same tokens changed out."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser.attention import Attention, attend
from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.modulation import ExpertNorm, add_gated
from cogvideox.denoiser.packing import Layout

# Tokens that the streaming form holds at once between layer norm and projection. Chosen by measurement.
_CHUNK_TOKENS = 2048


class FeedForward(nn.Module):
    """Two projections with a tanh-approximated GELU between them, four times the width inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Changed tokens, before the residual."""
        changed: Tensor = self.down(F.gelu(self.up(tokens), approximate="tanh"))
        return changed


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
        self, tokens: Float[Tensor, "n d"], time: Float[Tensor, "b time"], *, layout: Layout, rope: Tensor | None
    ) -> Float[Tensor, "n d"]:
        """The tokens after this layer. Without gradients `tokens` itself is changed, to save memory."""
        if not (torch.is_grad_enabled() or torch.compiler.is_compiling()):
            return self._stream(tokens, time, layout=layout, rope=rope)
        modulation = self.attention_norm.modulate(time)
        change = self.attention(self.attention_norm(tokens, modulation, layout=layout), layout=layout, rope=rope)
        tokens = add_gated(tokens, change, modulation.gate, layout=layout)
        modulation = self.feed_forward_norm.modulate(time)
        change = self.feed_forward(self.feed_forward_norm(tokens, modulation, layout=layout))
        return add_gated(tokens, change, modulation.gate, layout=layout)

    def _stream(self, tokens: Tensor, time: Tensor, *, layout: Layout, rope: Tensor | None) -> Tensor:
        """The same layer in place and by pieces: nothing as large as the tokens lives but query, key and value."""
        weight, bias, gate = self.attention_norm.modulate(time)
        shape = (tokens.shape[0], self.attention.num_heads, -1)
        query, key, value = (torch.empty_like(tokens).view(shape) for _ in range(3))
        for index, piece in _pieces(layout):
            normed = F.layer_norm(tokens[piece], tokens.shape[-1:], weight[index], bias[index], self._eps)
            turn = None if rope is None else rope[piece]
            query[piece], key[piece], value[piece] = self.attention.project(normed, rope=turn)
        attended = attend(query, key, value, layout=layout).flatten(1)
        del query, key, value
        for index, piece in _pieces(layout):
            tokens[piece].addcmul_(self.attention.out(attended[piece]), gate[index])
        del attended
        weight, bias, gate = self.feed_forward_norm.modulate(time)
        for index, piece in _pieces(layout):
            normed = F.layer_norm(tokens[piece], tokens.shape[-1:], weight[index], bias[index], self._eps)
            tokens[piece].addcmul_(self.feed_forward(normed), gate[index])
        return tokens

    @property
    def _eps(self) -> float:
        return self.attention_norm.norm.eps


def _pieces(layout: Layout) -> Iterator[tuple[int, slice]]:
    """Runs of at most `_CHUNK_TOKENS` tokens inside one segment, with the segment's index."""
    for index, segment in enumerate(layout.segments):
        for start in range(segment.start, segment.stop, _CHUNK_TOKENS):
            yield index, slice(start, min(start + _CHUNK_TOKENS, segment.stop))
