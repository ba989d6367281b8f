"""A step's number becomes what each worker will see in it: clips, sizes, and all that chance decides for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from cogvideox.objective import stream_seed
from groundwork.errors import UsageError
from groundwork.latents import IndexedClip
from training.engines.groups import check_counts
from training.fit import variant_of
from training.order import Order
from training.recipe import TrainRecipe
from training.stages import Scores
from training.step import Draw


def explain(recipe: TrainRecipe, clips: Sequence[IndexedClip], scores: Scores, *, step: int) -> dict[str, Any]:
    """Packs of every worker in the step numbered from 1, as metrics count. Raises UsageError past the schedule, and
    RecipeError where the number of workers does not fit.

    Seeds are those of torch generators: of the noise on a clip, and of an adapter's dropout in a pack.
    """
    if not 1 <= step <= recipe.num_steps:
        raise UsageError(f"--step {step}: the schedule has steps 1 to {recipe.num_steps}.", "")
    check_counts(recipe.engine, recipe.workers, heads=variant_of(recipe).denoiser.num_heads)
    plan, world = Order(recipe, clips, scores).step(step - 1), recipe.workers.count
    together = recipe.engine.sequence_parallel  # a row's workers; the first of them is named
    stage = recipe.stages[recipe.stage_at(step - 1)[0]]
    packs: list[dict[str, Any]] = []
    for number, (first, draws) in enumerate(plan.share(0, 1)):
        tokens = sum(clips[draw.clip].num_tokens for draw in draws)
        pack = {
            "pack": number,
            "worker": number % (world // together) * together,
            "tokens": tokens,
            "fill": round(tokens / stage.tokens_per_pack, 4),
            "clips": [_clip(recipe, draw, clips[draw.clip], step=plan.step) for draw in draws],
        }
        if recipe.adapter.dropout:
            pack["dropout_seed"] = stream_seed(recipe.seed, plan.step, "dropout", first)
        packs.append(pack)
    return {"step": step, "stage": stage.name, "workers": world, "packs": packs}


def _clip(recipe: TrainRecipe, draw: Draw, clip: IndexedClip, *, step: int) -> dict[str, Any]:
    told = {
        "clip": draw.name,
        "bucket": clip.bucket,
        "tokens": clip.num_tokens,
        "timestep": draw.timestep,
        "caption": draw.caption,
        "text_dropped": draw.drop_text,
        "weight": round(draw.weight, 6),
        "noise_seed": stream_seed(recipe.seed, step, "noise", draw.name),
        "latent": "sampled" if clip.log_variance_at else "stored",
    }
    if variant_of(recipe).takes_image:
        told["image_dropped"] = draw.drop_image
        told["image_noise"] = draw.image_noise
        told["image_noise_log"] = math.log(draw.image_noise)
    return told


def text(made: dict[str, Any]) -> str:
    """A line per clip, by worker and pack."""
    lines = [f"step {made['step']}, stage {made['stage']}, {made['workers']} workers"]
    for pack in sorted(made["packs"], key=lambda one: (one["worker"], one["pack"])):
        dropout = f", adapter dropout from seed {pack['dropout_seed']}" if "dropout_seed" in pack else ""
        lines.append(
            f"worker {pack['worker']}, pack {pack['pack']}: {pack['tokens']} tokens, {pack['fill']:.1%} full{dropout}"
        )
        lines += [_line(clip) for clip in pack["clips"]]
    return "\n".join(lines)


def _line(clip: dict[str, Any]) -> str:
    said = "no text" if clip["text_dropped"] else f"caption {clip['caption']}"
    line = (
        f"  {clip['clip']:<28}{clip['bucket']:>14}{clip['tokens']:>8} tokens  t {clip['timestep']:>3}  "
        f"{said:<10} weight {clip['weight']:.4f}"
    )
    if "image_dropped" in clip:
        noise = f"image noise {clip['image_noise']:.4f} (log {clip['image_noise_log']:.3f})"
        line += "  no image" if clip["image_dropped"] else f"  {noise}"
    return line + ("  sampled latent" if clip["latent"] == "sampled" else "")
