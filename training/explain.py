"""A step's number becomes what each worker will see in it: clips, sizes, timesteps, texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groundwork.errors import UsageError
from groundwork.latents import IndexedClip
from training.order import Order
from training.recipe import TrainRecipe
from training.stages import Scores
from training.step import Draw


def explain(recipe: TrainRecipe, clips: Sequence[IndexedClip], scores: Scores, *, step: int) -> dict[str, Any]:
    """Packs of every worker in the step numbered from 1, as metrics count. Raises UsageError past the schedule."""
    if not 1 <= step <= recipe.num_steps:
        raise UsageError(f"--step {step}: the schedule has steps 1 to {recipe.num_steps}.", "")
    plan, world = Order(recipe, clips, scores).step(step - 1), recipe.workers.count
    together = recipe.engine.sequence_parallel  # a row's workers; the first of them is named
    stage = recipe.stages[recipe.stage_at(step - 1)[0]]
    packs = []
    for number, draws in enumerate(plan.packs):
        tokens = sum(clips[draw.clip].num_tokens for draw in draws)
        packs.append(
            {
                "pack": number,
                "worker": number % (world // together) * together,
                "tokens": tokens,
                "fill": round(tokens / stage.tokens_per_pack, 4),
                "clips": [_clip(draw, clips[draw.clip]) for draw in draws],
            }
        )
    return {"step": step, "stage": stage.name, "workers": world, "packs": packs}


def _clip(draw: Draw, clip: IndexedClip) -> dict[str, Any]:
    return {
        "clip": draw.name,
        "bucket": clip.bucket,
        "tokens": clip.num_tokens,
        "timestep": draw.timestep,
        "caption": None if draw.drop_text else draw.caption,
        "weight": round(draw.weight, 6),
    }


def text(made: dict[str, Any]) -> str:
    """A line per clip, by worker and pack."""
    lines = [f"step {made['step']}, stage {made['stage']}, {made['workers']} workers"]
    for pack in sorted(made["packs"], key=lambda one: (one["worker"], one["pack"])):
        lines.append(f"worker {pack['worker']}, pack {pack['pack']}: {pack['tokens']} tokens, {pack['fill']:.1%} full")
        for clip in pack["clips"]:
            said = "no text" if clip["caption"] is None else f"caption {clip['caption']}"
            lines.append(
                f"  {clip['clip']:<28}{clip['bucket']:>14}{clip['tokens']:>8} tokens  t {clip['timestep']:>3}  "
                f"{said:<10} weight {clip['weight']:.4f}"
            )
    return "\n".join(lines)
