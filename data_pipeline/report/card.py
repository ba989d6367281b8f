"""What a dataset holds becomes card.md: what it is, where it comes from, how it was chosen, what it is good for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from data_pipeline.report.contents import Contents
from data_pipeline.report.sections import seconds_text


def render_card(contents: Contents) -> str:
    """The dataset card as Markdown."""
    manifest = contents.manifest
    videos, clips, hours = manifest["videos"], manifest["clips"], manifest["hours"]
    licences = sorted({video.licence for video in contents.videos if video.licence})
    codecs = Counter(video.codec for video in contents.videos if video.status == "ok")
    recipe = manifest["recipe"]
    lines = [
        f"# {manifest['name']}",
        "",
        f"Clips for training `{manifest['variant']}`: VAE latents and text embeddings in bfloat16, with captions.",
        "",
        "| | |",
        "|---|---|",
        f"| sources | {videos['read']}, of which {videos['failed']} failed and {videos['duplicate']} duplicate |",
        f"| footage | {seconds_text(hours['read'])} |",
        f"| clips kept | {clips['kept']} of {clips['found']} ({seconds_text(hours['kept'])}) |",
        f"| codecs | {', '.join(f'{codec} {count}' for codec, count in sorted(codecs.items())) or 'none'} |",
        f"| licence | {', '.join(licences) or 'not stated in the recipe: ask the owner of the footage'} |",
        f"| frame rate | {recipe['clips']['fps']:g} frames a second |",
        f"| captions | {', '.join(_captioners(recipe))} |",
        f"| recipe hash | `{manifest['recipe_hash']}` |",
        f"| dataset hash | `{manifest['dataset_hash']}` |",
        "",
        "## Buckets",
        "",
        "| bucket (frames x height x width) | clips |",
        "|---|---|",
        *(f"| {bucket} | {count} |" for bucket, count in sorted(_per_bucket(contents).items())),
        "",
        "## Why clips were left out",
        "",
        "| reason | clips |",
        "|---|---|",
        *(f"| {reason} | {count} |" for reason, count in clips["rejected"].items()),
        "",
        "## Limits",
        "",
        f"{_caption_limits(recipe)}"
        " Quality is judged by motion, sharpness and exposure alone. Nothing was checked for faces, text or rights.",
        "",
    ]
    return "\n".join(lines)


def _captioners(recipe: Mapping[str, Any]) -> list[str]:
    """Of each captioner its name and the model whose words its captions are."""
    told = []
    for one in recipe["captions"]["captioners"]:
        last = {"video": "video", "summary": "language"}.get(one["route"], "")
        told.append(f"{one['name']} ({one[last]['model']})" if last else one["name"])
    return told


def _caption_limits(recipe: Mapping[str, Any]) -> str:
    if all(one["route"] == "measured" for one in recipe["captions"]["captioners"]):
        return "Captions say only what was measured (colours, light, motion, camera, focus), not what is shown."
    return "Captions are those of the named models, held against rules of form, not against what is shown."


def _per_bucket(contents: Contents) -> Counter[str]:
    counts: Counter[str] = Counter()
    for shard in contents.manifest["shards"]:
        counts[shard["bucket"]] += shard["clips"]
    return counts
