"""Successive weights become their exponential moving average: what is sampled from and exported."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def decay_at(step: int, decay: float) -> float:
    """Decay of the update after `step` (from 0): reached gradually, so that the random start is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The average of the tensors that one worker looks after, in their own dtype and place."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = {name: value.detach().clone() for name, value in values.items()}

    @torch.no_grad()
    def update(self, values: Mapping[str, Tensor], *, decay: float) -> None:
        """Move towards `values`: average ← decay · average + (1 - decay) · value."""
        for name, average in self.values.items():
            average.lerp_(values[name].detach(), 1 - decay)
