"""A row of tokens spread over workers: each holds a stretch of it, and inside attention some heads of all of it.

DeepSpeed-Ulysses (arXiv 2309.14509) over a pack: one exchange gives every worker whole sequences of its heads,
attention runs there with the borders between clips of the whole row, and another exchange brings the tokens back.
Stretches may differ by a token, so rows need no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.denoiser.packing import Layout, Row


@dataclass(frozen=True)
class RowShard(Row):
    """One worker's stretch of a row that the workers of `group` share; all of them hold the same clips.

    A loss over what `gather_video` returns is the same on all of them, and each gets the part of the gradient that
    passes through its own tokens: the gradient is their sum.
    """

    row: Layout
    group: dist.ProcessGroup

    @property
    def counts(self) -> list[int]:
        """Tokens of every worker."""
        each, more = divmod(self.row.num_tokens, self.group.size())
        return [each + (worker < more) for worker in range(self.group.size())]

    @property
    def own(self) -> slice:
        """This worker's tokens in the row."""
        return _stretch(self.counts, self.group.rank())

    @property
    def segment_lengths(self) -> list[int]:
        """Tokens of this worker in each segment of the row; 0 where a segment lies elsewhere."""
        return _inside(self.row.segment_lengths, self.own)

    @property
    def video_lengths(self) -> list[int]:
        """Video tokens of this worker in each clip."""
        return self.segment_lengths[1::2]

    def to_heads(self, x: Float[Tensor, "n s k d"]) -> Float[Tensor, "n_row s k_own d"]:
        """All tokens of this worker's share of the heads, from its tokens of all heads."""
        parts = rearrange(x, "n s (w k) d -> (w n) s k d", w=self.group.size())
        own = [x.shape[0]] * self.group.size()
        return _exchange(parts, send=own, receive=self.counts, group=self.group)

    def to_tokens(self, x: Float[Tensor, "n_row k_own d"]) -> Float[Tensor, "n k d"]:
        """The inverse: this worker's tokens of all heads."""
        size = self.group.size()
        own = [self.counts[self.group.rank()]] * size
        parts = _exchange(x, send=self.counts, receive=own, group=self.group)
        tokens: Tensor = rearrange(parts, "(w n) k d -> n (w k) d", w=size)
        return tokens

    def gather_video(self, rows: Float[Tensor, "n f"]) -> Float[Tensor, "n_row f"]:
        """The rows of all video tokens, from every worker's own; the gradient stays with the owner of a row."""
        borders = list(accumulate(self.counts, initial=0))
        lengths = self.row.segment_lengths
        counts = [sum(_inside(lengths, slice(a, b))[1::2]) for a, b in pairwise(borders)]
        gathered: Tensor = _Gather.apply(rows, counts, self.group)  # type: ignore[no-untyped-call]
        return gathered


def _stretch(counts: Sequence[int], place: int) -> slice:
    start = sum(counts[:place])
    return slice(start, start + counts[place])


def _inside(lengths: Sequence[int], part: slice) -> list[int]:
    """How much of each of the runs lies in `part` of the row."""
    borders = pairwise(accumulate(lengths, initial=0))
    return [max(0, min(stop, part.stop) - max(start, part.start)) for start, stop in borders]


def _exchange(x: Tensor, *, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    exchanged: Tensor = _AllToAll.apply(x, tuple(send), tuple(receive), group)  # type: ignore[no-untyped-call]
    return exchanged


def _all_to_all(x: Tensor, send: Sequence[int], receive: Sequence[int], group: dist.ProcessGroup) -> Tensor:
    received = x.new_empty((sum(receive), *x.shape[1:]))
    dist.all_to_all_single(received, x.contiguous(), list(receive), list(send), group=group)
    return received


class _AllToAll(torch.autograd.Function):
    """Runs of rows to every worker and from every worker; gradients go the way back."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, send: tuple[int, ...], receive: tuple[int, ...], group: dist.ProcessGroup
    ) -> Tensor:
        ctx.send, ctx.receive, ctx.group = send, receive, group
        return _all_to_all(x, send, receive, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(gradient, ctx.receive, ctx.send, ctx.group), None, None, None


class _Gather(torch.autograd.Function):
    """Everyone's rows on every worker; the gradient of a worker's own rows is what its own loss says of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.own = _stretch(counts, group.rank())
        copies = rows.repeat(group.size(), *(1 for _ in rows.shape[1:]))
        return _all_to_all(copies, [rows.shape[0]] * group.size(), counts, group)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own].contiguous(), None, None
