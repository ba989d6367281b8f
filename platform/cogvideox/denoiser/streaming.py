"""Runs one layer without gradients in place and by pieces: the same numbers, little memory, no idle passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser.attention import Attention, attend
from cogvideox.denoiser.kernels import prepared, working_dtype
from cogvideox.denoiser.modulation import ExpertNorm, Modulation
from cogvideox.denoiser.packing import Layout, Row
from cogvideox.denoiser.sequence_parallel import RowShard

# Tokens between layer norm and projection: the fewest at which a product runs at its full rate on the device.
_CHUNK_TOKENS = {"cpu": 1024, "cuda": 8192}


def stream_attention(
    tokens: Float[Tensor, "n d"],
    time: Float[Tensor, "b time"],
    *,
    norm: ExpertNorm,
    attention: Attention,
    layout: Layout | RowShard,
    rope: Float[Tensor, "n pairs 2"] | None,
) -> None:
    """Adds gated attention to `tokens`. Only queries, keys and values are as large as the tokens."""
    work = working_dtype(tokens)
    modulation = _in(work, norm.modulate(time))
    shape = (tokens.shape[0], attention.num_heads, tokens.shape[1] // attention.num_heads)
    query, key, value = (torch.empty(shape, dtype=work, device=tokens.device) for _ in range(3))
    to_query, to_key, to_value = (
        prepared(layer, dtype=work) for layer in (attention.query, attention.key, attention.value)
    )
    for index, piece in _pieces(layout, tokens.device):
        normed = _normed(tokens[piece], modulation, index, eps=norm.norm.eps)
        turn = None if rope is None else rope[piece]
        query[piece] = _turned(to_query(normed).view(-1, *shape[1:]), attention.query_norm, turn)
        key[piece] = _turned(to_key(normed).view(-1, *shape[1:]), attention.key_norm, turn)
        value[piece] = to_value(normed).view(-1, *shape[1:])
    attended = attend(query, key, value, layout=layout).flatten(1)
    del query, key, value
    to_out = prepared(attention.out, dtype=work)
    for index, piece in _pieces(layout, tokens.device):
        _add(tokens[piece], to_out(attended[piece]), modulation.gate[index])


def stream_feed_forward(
    tokens: Float[Tensor, "n d"],
    time: Float[Tensor, "b time"],
    *,
    norm: ExpertNorm,
    up: nn.Linear,
    down: nn.Linear,
    layout: Row,
) -> None:
    """Adds the gated feed-forward to `tokens`, a piece at a time from layer norm to residual."""
    work = working_dtype(tokens)
    modulation = _in(work, norm.modulate(time))
    widen: Callable[[Tensor], Tensor] = prepared(up, dtype=work, gelu=True)
    narrow = prepared(down, dtype=work)
    for index, piece in _pieces(layout, tokens.device):
        normed = _normed(tokens[piece], modulation, index, eps=norm.norm.eps)
        _add(tokens[piece], narrow(widen(normed)), modulation.gate[index])


def _turned(x: Float[Tensor, "n k d"], norm: nn.LayerNorm, turn: Tensor | None) -> Float[Tensor, "n k d"]:
    """Normalised over the head's width, then rotated in float32."""
    normed = F.layer_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
    if turn is None:
        return normed
    wide = normed.float()  # itself where it is float32 already: rotated in place
    torch.view_as_complex(wide.view(*wide.shape[:-1], -1, 2)).mul_(torch.view_as_complex(turn.contiguous())[:, None])
    return wide


def _normed(tokens: Tensor, modulation: Modulation, index: int, *, eps: float) -> Tensor:
    weight, bias = modulation.weight[index], modulation.bias[index]
    return F.layer_norm(tokens.to(weight.dtype), tokens.shape[-1:], weight, bias, eps)


def _add(tokens: Tensor, change: Tensor, gate: Tensor) -> None:
    if tokens.dtype == change.dtype:
        tokens.addcmul_(change, gate)
    else:
        tokens.copy_(torch.addcmul(tokens.to(change.dtype), change, gate))


def _in(dtype: torch.dtype, modulation: Modulation) -> Modulation:
    return Modulation(*(part.to(dtype) for part in modulation))


def _pieces(layout: Row, device: torch.device) -> Iterator[tuple[int, slice]]:
    """Runs of tokens inside one segment, with the segment's index."""
    step = _CHUNK_TOKENS.get(device.type, _CHUNK_TOKENS["cuda"])
    for index, segment in enumerate(layout.segments):
        for start in range(segment.start, segment.stop, step):
            yield index, slice(start, min(start + step, segment.stop))
