"""Turns queries, keys and values of a row of clips into attended values, each clip seeing only itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser.config import DenoiserConfig
from cogvideox.denoiser.kernels import linear, working_dtype
from cogvideox.denoiser.packing import Layout
from cogvideox.denoiser.sequence_parallel import RowShard

_QK_NORM_EPS = 1e-6


def attend(
    query: Float[Tensor, "n k d"],
    key: Float[Tensor, "n k d"],
    value: Float[Tensor, "n k d"],
    *,
    layout: Layout | RowShard,
) -> Float[Tensor, "n k d"]:
    """Full attention inside each clip and none between clips.

    Clips of one length share a single call. Clips of several lengths use the variable-length kernel of torch on GPUs
    that have it (half precision) and one exact call per clip elsewhere; never a dense mask, whose size is quadratic.
    """
    if isinstance(layout, RowShard):
        heads = layout.to_heads(torch.stack((query, key, value), dim=1)).unbind(1)
        return layout.to_tokens(attend(*heads, layout=layout.row))
    lengths = layout.clip_lengths
    if len(set(lengths)) == 1:
        batched = (rearrange(x, "(b n) k d -> b k n d", b=len(lengths)) for x in (query, key, value))
        attended: Tensor = rearrange(F.scaled_dot_product_attention(*batched), "b k n d -> (b n) k d")
        return attended
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _attend_variable_length(query, key, value, layout=layout)
    parts = (torch.split(x, list(lengths)) for x in (query, key, value))
    return torch.cat([_attend_one(q, k, v) for q, k, v in zip(*parts, strict=True)])


def _attend_one(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads_first = (rearrange(x, "n k d -> 1 k n d") for x in (query, key, value))
    attended: Tensor = rearrange(F.scaled_dot_product_attention(*heads_first), "1 k n d -> n k d")
    return attended


def _attend_variable_length(query: Tensor, key: Tensor, value: Tensor, *, layout: Layout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # a CUDA-only operation: not worth importing elsewhere

    borders, longest = layout.cu_seqlens(query.device), max(layout.clip_lengths)
    attended = varlen_attn(query, key, value, borders, borders, longest, longest)
    assert isinstance(attended, Tensor)
    return attended


def rotate(x: Float[Tensor, "n k d"], rope: Float[Tensor, "n pairs 2"]) -> Float[Tensor, "n k d"]:
    """Rotates adjacent channel pairs by each token's angles, in float32 whatever the input (3D RoPE)."""
    pairs = rearrange(x.float(), "n k (pairs two) -> n k pairs two", two=2)
    if torch.compiler.is_compiling():  # the compiler fuses real arithmetic, and does not generate complex kernels
        cos, sin = rope[:, None].unbind(-1)
        real, imaginary = pairs.unbind(-1)
        rotated = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
    else:
        turn = torch.view_as_complex(rope.contiguous())[:, None]
        rotated = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
    return rotated.flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Queries, keys and values with their norms; positions enter after the norm, on video tokens only."""

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        width, self.num_heads = config.width, config.num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.query_norm = nn.LayerNorm(config.head_width, eps=_QK_NORM_EPS)
        self.key_norm = nn.LayerNorm(config.head_width, eps=_QK_NORM_EPS)
        self.out = nn.Linear(width, width)

    def forward(
        self, tokens: Float[Tensor, "n d"], *, layout: Layout | RowShard, rope: Tensor | None
    ) -> Float[Tensor, "n d"]:
        """Attended tokens, before the residual."""
        query, key, value = self.project(tokens, rope=rope)
        work = working_dtype(tokens)
        attended = attend(query.to(work), key.to(work), value.to(work), layout=layout).to(tokens.dtype)
        return linear(attended.flatten(1), self.out)

    def project(self, tokens: Float[Tensor, "n d"], *, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised, rotated queries and keys, and values, each [n, k, d]."""
        query, key, value = (
            rearrange(linear(tokens, layer), "n (k d) -> n k d", k=self.num_heads)
            for layer in (self.query, self.key, self.value)
        )
        query, key = self.query_norm(query), self.key_norm(key)
        if rope is not None:
            query, key = rotate(query, rope), rotate(key, rope)
        return query, key, value
