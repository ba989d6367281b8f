"""Turns a conditional and an unconditional velocity into a guided one, with a scale that may change by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from cogvideox.denoiser import Denoiser
from cogvideox.variants import DynamicGuidance


@dataclass(frozen=True)
class Guidance:
    """How strongly the prompt is followed.

    `dynamic`: "smooth" rises from 1 to 1+scale late in the trajectory (what the formula means); "wave" puts the
    timestep where the step count belongs, as both published code bases do, and jumps between those ends.
    `split` runs the two halves one after the other: half the memory, the same numbers.
    """

    scale: float = 6.0
    dynamic: DynamicGuidance = "off"
    split: bool = False

    @property
    def needs_unconditional(self) -> bool:
        """Whether the unconditional half is evaluated at all."""
        return self.scale != 1.0 or self.dynamic != "off"

    def scale_at(self, *, step: int, num_steps: int, timestep: int) -> float:
        """Scale of step `step` (from 0) of `num_steps`, taken at `timestep` 0..999."""
        if self.dynamic == "off":
            return self.scale
        share = step / num_steps if self.dynamic == "smooth" else (num_steps - timestep) / num_steps
        return 1 + self.scale * (1 - math.cos(math.pi * share**5)) / 2


def guided_velocity(
    denoiser: Denoiser,
    model_input: Float[Tensor, "b c t h w"],
    *,
    timestep: int,
    positive: Float[Tensor, "b n d"],
    negative: Float[Tensor, "b n d"] | None,
    scale: float,
    split: bool = False,
    halves: dist.ProcessGroup | None = None,
) -> Float[Tensor, "b c_out t h w"]:
    """unconditional + scale·(conditional - unconditional), float32 (classifier-free guidance on the velocity).

    Without `negative` the conditional velocity alone. Of the two workers of `halves` the first computes the
    unconditional half and the second the conditional, and both get the answer.
    """
    times = torch.full((model_input.shape[0],), timestep, dtype=torch.int64, device=model_input.device)
    if negative is None:
        alone: Tensor = denoiser(model_input, timestep=times, text_embedding=positive)
        return alone.float()
    if halves is not None:
        own = denoiser(model_input, timestep=times, text_embedding=(negative, positive)[halves.rank()]).contiguous()
        both = [torch.empty_like(own) for _ in range(2)]
        dist.all_gather(both, own, group=halves)
        unconditional, conditional = (velocity.float() for velocity in both)
    elif split:
        unconditional, conditional = (
            denoiser(model_input, timestep=times, text_embedding=text).float() for text in (negative, positive)
        )
    else:
        both = denoiser(
            torch.cat((model_input, model_input)),
            timestep=torch.cat((times, times)),
            text_embedding=torch.cat((negative, positive)),
        )
        unconditional, conditional = both.float().chunk(2)
    guided: Tensor = unconditional + scale * (conditional - unconditional)
    return guided
