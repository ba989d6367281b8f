"""Turns a card's SNR shift into noise levels: alpha-bar for each of the 1000 timesteps."""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_TIMESTEPS = 1000
_BETA_START, _BETA_END = 0.00085, 0.012


class Schedule:
    """Scaled-linear betas, SNR shifted down by `snr_shift`, zero SNR at the last timestep (paper, section 2.4)."""

    def __init__(self, snr_shift: float = 1.0) -> None:
        if snr_shift <= 0:
            raise ValueError(f"snr_shift={snr_shift}: must be positive (3.0 for the 2B model, 1.0 for the others)")
        self.snr_shift = snr_shift

    @cached_property
    def alpha_bar(self) -> Float[Tensor, " timesteps"]:
        """Share of signal power per timestep, float64 on the CPU; the last is exactly 0."""
        betas = torch.linspace(_BETA_START**0.5, _BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64) ** 2
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        alpha_bar = alpha_bar / (self.snr_shift + (1 - self.snr_shift) * alpha_bar)
        root = alpha_bar.sqrt()
        first, last = root[0].clone(), root[-1].clone()
        return ((root - last) * (first / (first - last))) ** 2

    def at(self, timestep: Int[Tensor, " b"], like: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
        """alpha-bar of `timestep` in float32 on `like`'s device, shaped to broadcast over `like`."""
        values = self.alpha_bar[timestep.cpu()].to(device=like.device, dtype=torch.float32)
        return values.view(-1, *(1,) * (like.ndim - 1))

    def signal_share(self, timestep: int) -> float:
        """alpha-bar of one timestep; 1.0 for -1, the clean end of a trajectory."""
        return 1.0 if timestep < 0 else float(self.alpha_bar[timestep])


def trailing_timesteps(num_steps: int) -> tuple[int, ...]:
    """`num_steps` timesteps from 999 down, evenly spaced, the first at zero SNR (50: 999, 979, ..., 19)."""
    if not 1 <= num_steps <= NUM_TIMESTEPS:
        raise ValueError(f"num_steps={num_steps}: must be 1 to {NUM_TIMESTEPS}")
    spacing = NUM_TIMESTEPS / num_steps
    return tuple(round(NUM_TIMESTEPS - index * spacing) - 1 for index in range(num_steps))
