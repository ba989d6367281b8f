"""What workers tell each other at every step: it travels in the one sum that also carries the losses."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Said:
    """What one worker says about a step."""

    stop: bool = False
    """It was asked to save and leave."""
    ask: bool = False
    """All should ask whether a machine is about to be taken away (worker 0 says so now and then)."""
    saved: bool = False
    """Its part in the save in the background is over."""
    waiting: float = 0.0
    """Seconds that it waited for its clips."""
    computing: float = 0.0
    """Seconds of its questions and its forward passes: where those wait for nobody, what tells workers apart."""


def exchange(losses: Float[Tensor, " n"], said: Said) -> tuple[Float[Tensor, " n"], list[Said]]:
    """The sum of `losses` over all workers, on the CPU, and what each of them said, in their order.

    Each place of the vector that is summed has one contributor: the sum is exact, in any order.
    """
    rank, world, width = dist.get_rank(), dist.get_world_size(), len(fields(Said))
    words = losses.new_zeros(world, width)
    words[rank] = torch.tensor(astuple(said), dtype=losses.dtype)
    together = torch.cat((losses, words.flatten()))
    dist.all_reduce(together)
    together = together.cpu()
    rows = together[len(losses) :].view(world, width).tolist()
    return together[: len(losses)], [_heard(row) for row in rows]


def _heard(values: list[float]) -> Said:
    stop, ask, saved, waiting, computing = values
    return Said(bool(stop), bool(ask), bool(saved), waiting, computing)
