"""Pairs become the forward passes of a whole training: a pure function of what there is, the settings and the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from data_pipeline.captions.training.pairs import Pair
from data_pipeline.captions.training.settings import DistilSettings

Passes = list[list[int]]
"""Numbers of the pairs in each forward pass."""


def num_steps(num_pairs: int, settings: DistilSettings, *, world: int) -> int:
    """Optimiser steps of the training."""
    if settings.steps:
        return settings.steps
    return max(1, math.ceil(settings.epochs * num_pairs / (settings.batch_clips * settings.accumulate * world)))


def plan_passes(pairs: Sequence[Pair], settings: DistilSettings, *, rank: int, world: int) -> Passes:
    """The forward passes of one of `world` workers, steps × accumulate of them.

    Each is of clips with equally many frames and similar length; every epoch shows each pair once, in another order.
    """
    total = num_steps(len(pairs), settings, world=world) * settings.accumulate * world
    return list(islice(_endless(pairs, settings), total))[rank::world]


def _endless(pairs: Sequence[Pair], settings: DistilSettings) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(settings.seed)
    while True:
        yield from _epoch(pairs, settings.batch_clips, generator)


def _epoch(pairs: Sequence[Pair], batch_clips: int, generator: Any) -> Passes:
    passes: Passes = []
    for count in sorted({len(pair.seconds) for pair in pairs}):
        alike = [number for number, pair in enumerate(pairs) if len(pair.seconds) == count]
        lengths = [pairs[number].length for number in alike]
        grouped = get_length_grouped_indices(lengths, batch_clips, generator=generator)
        passes += [
            [alike[index] for index in grouped[start : start + batch_clips]]
            for start in range(0, len(grouped), batch_clips)
        ]
    return [passes[index] for index in torch.randperm(len(passes), generator=generator).tolist()]
