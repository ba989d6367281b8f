"""The headers of the inputs become a forecast: clips, hours, storage, CPU and GPU hours, each with an interval."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import shape as shapes
from cogvideox.variants import VARIANTS
from data_pipeline.assess import known_scores
from data_pipeline.ingest import Source, find_sources
from data_pipeline.rates import Interval, Rates, Shape, assumed_rates, measured_rates, million_pixels
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import check
from groundwork import media
from groundwork.errors import MediaError, RecipeError, StorageError
from groundwork.storage import open_storage
from groundwork.telemetry import Progress

_THREADS, _FEW = 8, 10
_ROW_BYTES = 1200
"""A clip's rows in all tables, its thumbnail apart: ids, scores, decision, caption."""
_THUMBNAIL_BYTES = 5000
_FRAME_BYTES = 400
"""Measurements of one frame in work/: numbers, hashes, and every half second a thumbnail."""
_PEAK = 2.0
"""Latents lie twice while they are merged into shards: staged, and in the shard."""


@dataclass(frozen=True)
class Headers:
    """What could be read of the inputs: shapes of the readable ones, and why the others are not."""

    shapes: Sequence[Shape]
    failed: Mapping[str, str]
    bytes: int

    @property
    def hours(self) -> float:
        return sum(shape.seconds for shape in self.shapes) / 3600


def plan(recipe: CurateRecipe, *, inputs: Sequence[str], out: str, like: str = "") -> dict[str, Any]:
    """Forecast of `curate run` with this recipe and these inputs; nothing is decoded and nothing written.

    `like`: a dataset curated before, whose yield and cost are taken. Raises InputError (nothing to read, no such
    dataset), RecipeError.
    """
    check(recipe.rules, known=known_scores())
    if recipe.variant not in VARIANTS:
        raise RecipeError(f"variant {recipe.variant!r} is not known.", f"Variants: {', '.join(VARIANTS)}.")
    headers = read_headers(find_sources(inputs, images=any(bucket.num_frames == 1 for bucket in recipe.buckets)))
    rates = measured_rates(open_storage(like), recipe) if like else assumed_rates(recipe, headers.shapes)
    result = {"recipe": recipe.name, "policy": recipe.policy, **forecast(recipe, headers, rates)}
    return {**result, "disk": disk_space(out, result["storage_bytes"]["peak"])}


def read_headers(sources: Sequence[Source]) -> Headers:
    """Probe every source, several at a time; a source that cannot be opened is told, not raised."""
    shapes_, failed = [], {}
    with Progress("headers", total=len(sources), unit="videos") as progress, ThreadPoolExecutor(_THREADS) as pool:
        for source, found in zip(sources, pool.map(_probe, sources), strict=True):
            if isinstance(found, Shape):
                shapes_.append(found)
            else:
                failed[source.uri] = found
            progress.update(failed=len(failed))
    return Headers(shapes_, failed, sum(source.bytes for source in sources))


def _probe(source: Source) -> Shape | str:
    try:
        with source.storage.local_path(source.name) as path:
            header = media.probe(path)
    except (MediaError, StorageError) as error:
        return error.message.rpartition(f"{source.name}: ")[2]
    return Shape(header.width, header.height, header.fps or 25.0, header.duration_seconds)


def forecast(recipe: CurateRecipe, headers: Headers, rates: Rates) -> dict[str, Any]:
    """The numbers of the plan, from headers and rates alone; intervals are [low, likely, high]."""
    found = rates.found_per_hour.times(headers.hours)
    kept = found.along(rates.kept_share)
    encode = _encode_hours(rates, kept)
    on_gpu = recipe.workers.encode_gpus > 0
    return {
        "basis": rates.basis,
        "videos": {"read": len(headers.shapes) + len(headers.failed), "failed": len(headers.failed)},
        "failed": dict(sorted(headers.failed.items())[:_FEW]),
        "hours": round(headers.hours, 4),
        "source_bytes": headers.bytes,
        "clips": {"found": found.plain(0), "kept": kept.plain(0), "kept_share": rates.kept_share.plain()},
        "storage_bytes": _storage(recipe, headers, rates, found),
        "cpu_hours": {
            "analyse": rates.analyse_seconds_per_hour.times(headers.hours / 3600).plain(),
            "encode": encode.plain() if encode and not on_gpu else None,
        },
        "encodes_on_gpus": on_gpu,
        "gpu_hours": encode.plain() if encode and on_gpu else None,
        "buckets": [_bucket(recipe, name, kept.times(share)) for name, share in rates.bucket_shares.items()],
        "rates": {
            "found_per_hour": rates.found_per_hour.plain(1),
            "analyse_cpu_seconds_per_hour": rates.analyse_seconds_per_hour.plain(1),
            "encode_seconds_per_million_pixels": rates.encode_seconds.plain() if rates.encode_seconds else None,
        },
    }


def latent_bytes(recipe: CurateRecipe, bucket: str) -> int:
    """Bytes of one clip in a shard: latent (two values where moments are kept) and text embedding, all bfloat16."""
    variant = VARIANTS[recipe.variant]
    frames, height, width = (int(part) for part in bucket.split("x"))
    latent = variant.autoencoder.latent_channels * int(np.prod(shapes.latent_shape(frames, height, width)))
    values = 2 if recipe.encode.latent == "moments" else 1
    return 2 * (values * latent + variant.text.max_tokens * variant.text.width)


def disk_space(out: str, peak: Sequence[float]) -> dict[str, Any] | None:
    """Free bytes where the dataset goes, and whether the likely and the highest need fit; None for object stores."""
    storage = open_storage(out)
    if not storage.is_local:
        return None
    folder = next(path for path in (Path(storage.root), *Path(storage.root).parents) if path.exists())
    free = shutil.disk_usage(folder).free
    return {"free": free, "fits_likely": peak[1] <= free, "fits_high": peak[2] <= free}


def plan_text(result: Mapping[str, Any]) -> str:
    """The forecast for people."""
    videos, clips, storage, cpu = result["videos"], result["clips"], result["storage_bytes"], result["cpu_hours"]
    unknown = "not known: give --like DATASET"
    lines = [
        f"basis     {result['basis']}",
        f"videos    {videos['read']} ({size_text(result['source_bytes'])}), {videos['failed']} of them unreadable",
        f"hours     {result['hours']:.4f}",
        f"clips     {_range(clips['found'])} found, {_range(clips['kept'])} kept",
        f"storage   latents {_range(storage['latents'], size_text)}, tables {_range(storage['tables'], size_text)}, "
        f"measurements {_range(storage['work'], size_text)}; at most {_range(storage['peak'], size_text)} at once",
        f"CPU hours analyse {_range(cpu['analyse'], _hours)}, encode "
        + (_range(cpu["encode"], _hours) if cpu["encode"] else "none" if result["encodes_on_gpus"] else unknown),
        f"GPU hours {_range(result['gpu_hours'], _hours) if result['gpu_hours'] else _no_gpu(result, unknown)}",
    ]
    if result["disk"] is not None:
        verdict = (
            "enough"
            if result["disk"]["fits_high"]
            else "may not be enough"
            if result["disk"]["fits_likely"]
            else "too little"
        )
        lines.append(f"disk      {size_text(result['disk']['free'])} free: {verdict}")
    lines += ["", f"{'bucket':<16}{'clips':>28}{'bytes a clip':>14}{'tokens':>8}"]
    lines += [
        f"{row['bucket']:<16}{_range(row['clips']):>28}{size_text(row['bytes_per_clip']):>14}{row['tokens']:>8}"
        for row in result["buckets"]
    ]
    return "\n".join([*lines, *(f"unreadable {uri}: {reason}" for uri, reason in result["failed"].items())])


def size_text(value: float) -> str:
    """Bytes in words: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def _range(values: Sequence[float], text: Callable[[float], str] = "{:.0f}".format) -> str:
    low, likely, high = (text(value) for value in values)
    return likely if low == high else f"{likely} ({low} to {high})"


def _hours(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _no_gpu(result: Mapping[str, Any], unknown: str) -> str:
    return unknown if result["encodes_on_gpus"] else "none: the recipe encodes on CPUs"


def _bucket(recipe: CurateRecipe, bucket: str, clips: Interval) -> dict[str, Any]:
    frames, height, width = (int(part) for part in bucket.split("x"))
    patch_frames = VARIANTS[recipe.variant].denoiser.patch_frames
    return {
        "bucket": bucket,
        "clips": clips.plain(0),
        "hours": clips.times(frames / recipe.clips.fps / 3600).plain(),
        "bytes_per_clip": latent_bytes(recipe, bucket),
        "tokens": shapes.num_video_tokens(frames, height, width, patch_frames=patch_frames),
    }


def _storage(recipe: CurateRecipe, headers: Headers, rates: Rates, found: Interval) -> dict[str, list[float]]:
    kept = found.along(rates.kept_share)
    each = sum(share * latent_bytes(recipe, bucket) for bucket, share in rates.bucket_shares.items())
    latents, tables = kept.times(each), found.times(_ROW_BYTES + _THUMBNAIL_BYTES)
    frames = sum(shape.seconds * shape.fps for shape in headers.shapes)
    work = Interval(0.5, 1.0, 2.0).times(frames * _FRAME_BYTES)
    peak = latents.times(_PEAK) + tables + work
    parts = {"latents": latents, "tables": tables, "work": work, "peak": peak}
    return {name: interval.plain(0) for name, interval in parts.items()}


def _encode_hours(rates: Rates, kept: Interval) -> Interval | None:
    if rates.encode_seconds is None:
        return None
    each = sum(share * million_pixels(bucket) for bucket, share in rates.bucket_shares.items())
    return rates.encode_seconds.along(kept).times(each / 3600)
