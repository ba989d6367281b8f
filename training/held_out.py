"""Clips that are never trained on become questions at fixed timesteps, the same at every evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cogvideox.objective import stream_seed
from groundwork.latents import IndexedClip
from training.packs import Pack
from training.recipe import HeldOutSettings
from training.step import Draw, StepPlan

NOISE_STEP = -1
"""The step that noise of held-out questions is drawn for: none of a training."""


def held_out_clips(settings: HeldOutSettings, clips: Sequence[IndexedClip]) -> tuple[int, ...]:
    """Numbers of the clips that are held out: those whose ids hash lowest, so that a dataset that grows, or a run with
    another seed, holds out the same ones as far as it can. Of a clip in several datasets every size is held out."""
    if not settings.clips:
        return ()
    order = sorted({clip.clip_id for clip in clips}, key=lambda clip_id: stream_seed("held-out", clip_id))
    chosen = set(order[: settings.clips])
    return tuple(number for number, clip in enumerate(clips) if clip.clip_id in chosen)


def held_out_plan(settings: HeldOutSettings, clips: Sequence[IndexedClip], *, budget: int) -> StepPlan:
    """Every held-out clip at every timestep, with its first caption, in rows of at most `budget` tokens."""
    pairs = [(number, at) for at in settings.timesteps for number in held_out_clips(settings, clips)]
    rows: list[list[int]] = []
    used = budget
    for index, (number, _) in enumerate(pairs):
        if used + clips[number].num_tokens > budget:
            rows.append([])
            used = 0
        rows[-1].append(index)
        used += clips[number].num_tokens
    draws = [Draw(number, f"{clips[number].clip_id}@{at}", at, False, 1 / len(pairs)) for number, at in pairs]
    return StepPlan(NOISE_STEP, tuple(tuple(draws[index] for index in row) for row in rows))


def by_timestep(settings: HeldOutSettings, plan: StepPlan, losses: Sequence[float]) -> list[float]:
    """Mean loss at each timestep, in the settings' order; damaged clips (NaN) do not count."""
    found: dict[int, list[float]] = {at: [] for at in settings.timesteps}
    for draw, loss in zip(plan.draws, losses, strict=True):
        if not math.isnan(loss):
            found[draw.timestep].append(loss)
    return [sum(values) / len(values) if values else math.nan for values in found.values()]


def without(numbers: Sequence[int], held_out: Pack) -> tuple[int, ...]:
    """The numbers that are not held out."""
    left_out = frozenset(held_out)
    return tuple(number for number in numbers if number not in left_out)
