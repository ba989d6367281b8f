"""A dataset's measurements, or headers of inputs alone, become the shots that buckets are planned for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from data_pipeline.analysis import Analysis
from data_pipeline.bucket_plan.footage import Shot
from data_pipeline.clips import Timeline, end_seconds, usable_shots
from data_pipeline.ingest import find_sources
from data_pipeline.measurements import measurements
from data_pipeline.plan import read_headers
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import TOO_SHORT
from data_pipeline.shots import find_shots
from data_pipeline.stored import align, read
from groundwork.errors import InputError, StorageError
from groundwork.storage import Storage

_STILL_SECONDS = 0.05
"""What lasts no longer is an image: their headers say one frame of 25 a second, or nothing."""


def dataset_shots(out: Storage, manifest: Mapping[str, Any], recipe: CurateRecipe) -> list[Shot]:
    """The shots of a dataset's videos, found again from its measurements: nothing is decoded.

    A shot counts by the share of its clips that was kept; one too short for any bucket by the share of all clips: a
    shorter bucket might have kept it. Raises InputError where the measurements are gone.
    """
    kept = _clips_by_video(out, manifest)
    shares = [share for clips in kept.values() for _, share in clips if share is not None]
    overall = float(np.mean(shares)) if shares else 0.0
    stored = measurements(out, recipe, fingerprint=manifest["code"]["analyse"])
    shots: list[Shot] = []
    for video_id, clips in kept.items():
        try:
            analysis = stored.read(video_id)
        except StorageError as error:
            hint = "Its folder work/ holds them. Plan from the sources: --input URI"
            raise InputError(f"{out.uri} lacks the measurements of its videos.", hint) from error
        shots += _video_shots(analysis, recipe, clips, overall=overall)
    return shots


def input_shots(inputs: Sequence[str], *, shot_seconds: float) -> list[Shot]:
    """What the headers of the inputs tell; without a cut they are taken to be cut every `shot_seconds` (0: never)."""
    shots = []
    for found in read_headers(find_sources(inputs, images=True)).shapes:
        if found.seconds <= _STILL_SECONDS:
            shots.append(Shot(found.width, found.height, 0.0))
            continue
        whole, rest = divmod(found.seconds, shot_seconds) if shot_seconds else (0, found.seconds)
        if whole:
            shots.append(Shot(found.width, found.height, shot_seconds, whole))
        if rest > 0 or not whole:
            shots.append(Shot(found.width, found.height, rest))
    return shots


_Clips = list[tuple[int, float | None]]
"""First time stamp of each clip, and 1 if it was kept, 0 if not, None if it was too short to be judged."""


def _clips_by_video(out: Storage, manifest: Mapping[str, Any]) -> dict[str, _Clips]:
    clips = read(out, manifest, "clips", ("clip_id", "video_id", "start_pts"))
    clip_ids = clips.column("clip_id").combine_chunks()
    decided = align(read(out, manifest, "decisions", ("clip_id", "kept", "reason")), clip_ids)
    short = pc.equal(decided.column("reason"), TOO_SHORT).to_pylist()
    found: dict[str, _Clips] = {}
    rows = zip(
        clips.column("video_id").to_pylist(),
        clips.column("start_pts").to_pylist(),
        decided.column("kept").to_pylist(),
        short,
        strict=True,
    )
    for video_id, start_pts, kept, too_short in rows:
        found.setdefault(video_id, []).append((start_pts, None if too_short else float(kept)))
    return found


def _video_shots(analysis: Analysis, recipe: CurateRecipe, clips: _Clips, *, overall: float) -> Iterator[Shot]:
    series, header = analysis.series(), analysis.header
    shots = find_shots(series, recipe.shots)
    starts = [int(index) for index in np.flatnonzero(shots.starts)]
    timeline = Timeline(series["pts"], series["seconds"], starts, shots.between)
    for (first, last), (start, stop) in zip(timeline.shots(), usable_shots(timeline, recipe.clips), strict=True):
        if start >= stop:
            continue
        low, high = timeline.pts[first], timeline.pts[last - 1]
        own = [share for start_pts, share in clips if low <= start_pts <= high]
        judged = [share for share in own if share is not None]
        weight = float(np.mean(judged)) if judged else overall if own else 0.0
        seconds = 0.0 if timeline.still else end_seconds(timeline, stop) - float(timeline.seconds[start])
        yield Shot(header.width, header.height, seconds, weight)
