"""A dataset or inputs become a plan: the buckets to write into a recipe, and what fixed ones would waste."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cogvideox import shape
from cogvideox.variants import Variant
from data_pipeline.bucket_plan.fixed import aspect_bins, native
from data_pipeline.bucket_plan.footage import Footage, Shot, films, stills
from data_pipeline.bucket_plan.search import Space, candidate_shapes, search
from data_pipeline.bucket_plan.settings import PlanSettings
from data_pipeline.bucket_plan.waste import HARD, Limits, Size, losses, plain
from data_pipeline.encode import variant_named
from groundwork.errors import InputError, RecipeError, UsageError
from groundwork.storage import open_storage

_DEFAULT_VARIANT = "cogvideox-5b"


def plan_buckets(settings: PlanSettings, *, dataset: str = "", inputs: Sequence[str] = ()) -> dict[str, Any]:
    """The plan for a dataset's shots, or for those of inputs whose headers alone are read.

    Raises UsageError unless just one of both is given; InputError where there is nothing to plan for; RecipeError for
    bounds that leave no bucket.
    """
    from data_pipeline.bucket_plan.sources import dataset_shots, input_shots
    from data_pipeline.recipe import CurateRecipe
    from data_pipeline.stored import read_manifest

    if bool(dataset) == bool(inputs):
        raise UsageError("Give a dataset or inputs.", "buckets DATASET, or buckets --input URI")
    if inputs:
        return plan_for(input_shots(inputs, shot_seconds=settings.shot_seconds), settings, basis="headers")
    out = open_storage(dataset)
    manifest = read_manifest(out)
    recipe = CurateRecipe.model_validate(manifest["recipe"])
    chosen = settings.model_copy(
        update={"variant": settings.variant or recipe.variant, "fps": settings.fps or recipe.clips.fps}
    )
    own = [(bucket.num_frames, bucket.height, bucket.width) for bucket in recipe.buckets]
    return plan_for(dataset_shots(out, manifest, recipe), chosen, basis=out.uri, recipe=own)


def plan_for(
    shots: Sequence[Shot], settings: PlanSettings, *, basis: str, recipe: Sequence[Size] = ()
) -> dict[str, Any]:
    """The plan for shots, beside fixed bins and the `recipe`'s own buckets. Pure."""
    variant = variant_named(settings.variant or _DEFAULT_VARIANT)
    fps = settings.fps or variant.fps
    frames = _frames(variant, settings, fps=fps)
    film, images = films(shots, fps=fps, longest=frames[-1]), stills(shots)
    if not film.counts.size and not images.counts.size:
        raise InputError(f"{basis}: there is nothing to plan for.", "No clip was kept, or no source can be read.")
    parts = []
    if film.counts.size:
        parts.append(_part("film", film, variant, settings, frames=frames, recipe=[s for s in recipe if s[0] > 1]))
    if images.counts.size:
        parts.append(_part("images", images, variant, settings, frames=(1,), recipe=[s for s in recipe if s[0] == 1]))
    return {
        "basis": basis,
        "variant": variant.name,
        "fps": fps,
        "shots": round(sum(shot.weight for shot in shots if shot.seconds > 0), 1),
        "hours": round(sum(shot.weight * shot.seconds for shot in shots) / 3600, 4),
        "images": round(sum(shot.weight for shot in shots if shot.seconds <= 0), 1),
        "buckets": [row for part in parts for row in part.pop("buckets")],
        "waste": parts,
    }


def _part(
    name: str,
    footage: Footage,
    variant: Variant,
    settings: PlanSettings,
    *,
    frames: tuple[int, ...],
    recipe: Sequence[Size],
) -> dict[str, Any]:
    """The plan for film, or for images, with what others waste on the same."""
    largest = float(settings.max_pixels or variant.height * variant.width)
    limits = Limits(frames, variant.denoiser.patch_frames, largest)
    space = _space(variant, settings, frames=frames, largest=largest)
    count = settings.count if name == "film" else settings.image_count
    planned = search(footage, space, limits, settings.weights, count=count)
    if not planned:
        raise RecipeError("Within these bounds there is no bucket.", "Raise --max-tokens, or widen the aspect range.")
    bins = {
        f"planned, {len(planned)}": planned,
        f"{variant.name} alone": native(variant, frames),
        "five aspect ratios": aspect_bins(space, frames, areas=(largest,), lengths=1),
        "five aspect ratios, two sizes, two lengths": aspect_bins(space, frames, areas=(largest, largest * 4 / 9)),
        "the recipe's": recipe,
    }
    table = [
        {"buckets": label, "count": len(sizes), **plain(losses(footage, sizes, limits))}
        for label, sizes in bins.items()
        if sizes
    ]
    rows = [
        {"num_frames": f, "height": h, "width": w, "tokens": _tokens(variant, (f, h, w))}
        for f, h, w in sorted(planned, reverse=True)
    ]
    return {"of": name, "buckets": rows, "table": table}


def _frames(variant: Variant, settings: PlanSettings, *, fps: float) -> tuple[int, ...]:
    """Lengths that a bucket may have, in order."""
    step = settings.frame_step or 4 * variant.denoiser.patch_frames
    if step % 4:
        raise RecipeError(f"frame_step={step}: frames are 4N + 1 or sparser.", "Take a multiple of 4.")
    longest = math.floor(settings.max_seconds * fps) if settings.max_seconds else variant.frame_rule.max_frames
    least = max(step + 1, math.ceil(settings.min_seconds * fps))
    frames = tuple(range(-(-(least - 1) // step) * step + 1, longest + 1, step))
    if variant.denoiser.positions == "rope+learned":
        frames = (variant.num_frames,)
    if not frames:
        raise RecipeError(f"No length of {step}N + 1 frames lies between {least} and {longest}.")
    return frames


def _space(variant: Variant, settings: PlanSettings, *, frames: tuple[int, ...], largest: float) -> Space:
    shapes = candidate_shapes(largest=largest, aspects=(settings.aspect_from, settings.aspect_to))
    if variant.denoiser.positions == "rope+learned":
        shapes = ((variant.height, variant.width),)
    most = settings.max_tokens or _tokens(variant, (variant.frame_rule.max_frames, variant.height, variant.width))
    return Space(shapes, frames, lambda size: _tokens(variant, size) <= most)


def _tokens(variant: Variant, size: Size) -> int:
    return shape.num_video_tokens(*size, patch_frames=variant.denoiser.patch_frames)


def plan_text(result: Mapping[str, Any]) -> str:
    """The plan for people: the waste beside fixed bins, and the lines for a recipe."""
    found = [f"{result['shots']:g} shots, {result['hours']:.3f} h"] if result["shots"] else []
    found += [f"{result['images']:g} images"] if result["images"] else []
    lines = [
        f"from      {result['basis']}: {', '.join(found)}",
        f"for       {result['variant']}, {result['fps']:g} fps",
    ]
    columns = (*HARD, "shrunk", "shortened")
    for part in result["waste"]:
        lines += ["", f"{part['of']:<44}{'waste':>9}" + "".join(f"{name:>11}" for name in columns) + f"{'frames':>8}"]
        for row in part["table"]:
            label = f"{row['buckets']} ({row['count']})" if "planned" not in row["buckets"] else row["buckets"]
            shares = "".join(f"{100 * row[name]:>10.1f}%" for name in columns)
            lines.append(f"  {label:<42}{100 * row['waste']:>8.1f}%{shares}{row['mean_frames']:>8.1f}")
    lines += [
        "",
        "waste = padded + cropped + dropped + upscaled pixels of all; shrunk, shortened: detail and length given up;",
        "frames: of a clip, on average. For a recipe:",
        "",
        "buckets:",
    ]
    for row in result["buckets"]:
        size = ", ".join(f"{name}: {row[name]}" for name in ("num_frames", "height", "width"))
        lines.append(f"  - {{{size}}}  # {row['tokens']} tokens")
    return "\n".join(lines)
