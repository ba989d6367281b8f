"""A video's per-frame measurements become its clips, one row each: span, bucket, scores, costs, thumbnail, hashes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline import buckets
from data_pipeline.analysis import Analysis
from data_pipeline.buckets import upscale
from data_pipeline.clips import Span, Timeline, clip_id, end_pts, end_seconds, plan_clips
from data_pipeline.duplicates.hashes import HASH_COLUMNS, clip_hashes
from data_pipeline.labels.names import COLUMNS as LABEL_SCORES
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.shots import find_shots
from data_pipeline.signals import CLOSER_SCORES, SIGNALS, score_names, signal_scores
from data_pipeline.signals.measuring import PLANES
from groundwork.records import Clip

CLIP_SCORES = ("seconds", "source_fps", "upscale", "aspect", "short_side", "bucket_frames")
"""Scores that follow from the clip itself: length, pictures per second, enlargement to cover the bucket (absent without
a bucket), width / height, the shorter side in pixels, pixel frames of the bucket (0 without one)."""
_LENGTHS = ("seconds", "source_fps")
_MOVING = ("motion", "still", "transition", "flashing")
CLIP = "clip"
"""Folder of these scores among the signals."""
BUCKET, THUMBNAIL = "bucket", "thumbnail"
_TIMED = sorted((PLANES, *(name for name, signal in SIGNALS.items() if signal.accumulator is not None)))
TIMINGS = tuple(f"{name}_milliseconds" for name in ("cpu", *_TIMED))
"""CPU time of the clip's share of the decode pass, and of each signal, which is a part of it."""

Scores = Mapping[str, float | None]


def known_scores() -> frozenset[str]:
    """Every score that a rule may ask for."""
    return measured_scores() | {name for names in CLOSER_SCORES.values() for name in names} | set(LABEL_SCORES)


def measured_scores() -> frozenset[str]:
    """The scores that `assess` gives."""
    return score_names() | set(CLIP_SCORES)


@cache
def schema() -> pa.Schema:
    """Columns of `assess`: those of `Clip`; `bucket` as text (null: too short for any); scores (null: no such score);
    `TIMINGS`; a JPEG `thumbnail`; `HASH_COLUMNS` (null: not asked for, or no bucket)."""
    fields = [*Clip.SCHEMA, pa.field(BUCKET, pa.string())]
    fields += [pa.field(name, pa.float64()) for name in (*sorted(measured_scores()), *TIMINGS)]
    fields += [pa.field(THUMBNAIL, pa.binary()), *(pa.field(name, kind) for name, kind in HASH_COLUMNS.items())]
    return pa.schema(fields)


def assess(video_id: str, analysis: Analysis, recipe: CurateRecipe) -> pa.Table:
    """The clips of one video, in order of time, as rows of `schema`. Pure: equal measurements and equal settings of
    shots, clips, buckets and copies give equal rows; rules and captions have no part in it."""
    series = analysis.series()
    header = analysis.header
    shots = find_shots(series, recipe.shots)
    starts = [int(index) for index in np.flatnonzero(shots.starts)]
    timeline = Timeline(series["pts"], series["seconds"], starts, shots.between)
    spans = plan_clips(timeline, recipe.clips, recipe.buckets, height=header.height, width=header.width)
    thumbnails = analysis.frames.column("thumbnail")
    pictured = np.flatnonzero(thumbnails.is_valid().to_numpy())
    rows = []
    for span in spans:
        clip = _clip(video_id, timeline, span, analysis)
        slices = {name: values[span.start : span.stop] for name, values in series.items()}
        row: dict[str, Any] = {**vars(clip), BUCKET: span.bucket.folder if span.bucket else None}
        for signal in SIGNALS.values():
            row |= signal.score(slices)
        row |= clip_scores(clip, span.bucket)
        if timeline.still:
            row |= dict.fromkeys(_moving_scores())
        row |= _costs(analysis, share=clip.num_frames / len(timeline.pts))
        middle = pictured[np.abs(pictured - (span.start + span.stop) / 2).argmin()]
        row[THUMBNAIL] = thumbnails[int(middle)].as_py()
        if span.bucket is not None and hashed(recipe):
            row |= clip_hashes(slices).columns()
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema())


def _moving_scores() -> list[str]:
    """What an image has not: no rule fires on them."""
    return [*_LENGTHS, *(name for signal in _MOVING for name in signal_scores()[signal])]


def hashed(recipe: CurateRecipe) -> bool:
    """Whether clips are to be compared by their hashes."""
    return recipe.duplicates.mode in ("hash", "both")


def assess_settings(recipe: CurateRecipe) -> dict[str, Any]:
    """The part of a recipe that `assess` hangs on."""
    shots = recipe.shots.model_dump(mode="json")
    clips = recipe.clips.model_dump(mode="json", exclude={"max_clips"})
    sizes = [bucket.model_dump(mode="json") for bucket in recipe.buckets]
    return {"shots": shots, "clips": clips, "buckets": sizes, "hashed": hashed(recipe)}


def _costs(analysis: Analysis, *, share: float) -> dict[str, float]:
    signals = {name: round(value * share, 3) for name, value in analysis.signal_milliseconds.items()}
    named = {f"{name}_milliseconds": value for name, value in signals.items()}
    return {"cpu_milliseconds": round(analysis.cpu_milliseconds * share, 1), **named}


def _clip(video_id: str, timeline: Timeline, span: Span, analysis: Analysis) -> Clip:
    header = analysis.header
    start_pts, stop_pts = int(timeline.pts[span.start]), end_pts(timeline, span.stop)
    time_base = (header.time_base_num, header.time_base_den)
    return Clip(
        clip_id=clip_id(video_id, start_pts=start_pts, stop_pts=stop_pts, time_base=time_base),
        video_id=video_id,
        start_pts=start_pts,
        stop_pts=stop_pts,
        time_base_num=time_base[0],
        time_base_den=time_base[1],
        start_seconds=float(timeline.seconds[span.start]),
        stop_seconds=end_seconds(timeline, span.stop),
        num_frames=span.stop - span.start,
        width=header.width,
        height=header.height,
        fps=header.fps,
    )


def clip_scores(clip: Clip, bucket: Bucket | None) -> Scores:
    """The scores named in CLIP_SCORES."""
    seconds = clip.stop_seconds - clip.start_seconds
    return {
        "seconds": seconds,
        "source_fps": clip.num_frames / seconds,
        "upscale": upscale(bucket, height=clip.height, width=clip.width) if bucket else None,
        "aspect": clip.width / clip.height,
        "short_side": float(min(clip.width, clip.height)),
        "bucket_frames": float(bucket.num_frames if bucket else 0),
    }


def shortest_seconds(recipe: CurateRecipe) -> float:
    """What a shot must be longer than to become a clip."""
    return buckets.shortest_seconds(recipe.buckets, recipe.clips)
