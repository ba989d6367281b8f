"""A video's per-frame measurements become its clips, their scores, the decisions on them and their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline import buckets, rules
from data_pipeline.analysis import Analysis
from data_pipeline.buckets import upscale
from data_pipeline.captions import measured
from data_pipeline.clips import Span, Timeline, clip_id, end_pts, end_seconds, plan_clips
from data_pipeline.duplicates.hashes import ClipHashes, clip_hashes
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.shots import find_shots
from data_pipeline.signals import CLOSER_SCORES, SIGNALS, score_names
from groundwork.records import Caption, Clip, Decision

CLIP_SCORES = ("seconds", "source_fps", "upscale", "aspect", "short_side", "bucket_frames")
"""Scores that follow from the clip itself: length, pictures per second, enlargement to cover the bucket (absent without
a bucket), width / height, the shorter side in pixels, pixel frames of the bucket (0 without one)."""
CLIP = "clip"
"""Folder of these scores among the signals."""

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class AssessedClip:
    """All that is known of a clip before it is encoded. `scores` by signal, "clip" among them; None: no such score.
    Too short shots have no bucket. `signal_milliseconds`: CPU time of each signal on this clip; what the pass
    measured is part of `cpu_milliseconds`. `absent`: signals that gave no score, and why. `hashes`: until copies are
    found."""

    clip: Clip
    bucket: Bucket | None
    scores: Mapping[str, Scores]
    decision: Decision
    caption: Caption | None
    thumbnail: bytes
    cpu_milliseconds: float
    absent: Mapping[str, str] = field(default_factory=dict)
    signal_milliseconds: Mapping[str, float] = field(default_factory=dict)
    hashes: ClipHashes | None = None

    def flat_scores(self) -> dict[str, float | None]:
        """All scores by name."""
        return {name: value for values in self.scores.values() for name, value in values.items()}


def known_scores() -> frozenset[str]:
    """Every score that a rule may ask for."""
    return score_names() | set(CLIP_SCORES) | {name for names in CLOSER_SCORES.values() for name in names}


def assess(video_id: str, analysis: Analysis, recipe: CurateRecipe) -> list[AssessedClip]:
    """The clips of one video, in order of time. Pure: equal measurements and recipe give equal rows."""
    series = analysis.series()
    header = analysis.header
    shots = find_shots(series, recipe.shots)
    starts = [int(index) for index in np.flatnonzero(shots.starts)]
    timeline = Timeline(series["pts"], series["seconds"], starts, shots.between)
    spans = plan_clips(timeline, recipe.clips, recipe.buckets, height=header.height, width=header.width)
    thumbnails = analysis.frames.column("thumbnail")
    pictured = np.flatnonzero(thumbnails.is_valid().to_numpy())
    assessed = []
    for span in spans:
        clip = _clip(video_id, timeline, span, analysis)
        slices = {name: values[span.start : span.stop] for name, values in series.items()}
        scores: dict[str, Scores] = {name: signal.score(slices) for name, signal in SIGNALS.items()}
        scores[CLIP] = clip_scores(clip, span.bucket)
        flat = {name: value for values in scores.values() for name, value in values.items()}
        decision = _decide(clip, flat, recipe)
        share = clip.num_frames / len(timeline.pts)
        middle = pictured[np.abs(pictured - (span.start + span.stop) / 2).argmin()]
        hashed = span.bucket is not None and recipe.duplicates.mode in ("hash", "both")
        assessed.append(
            AssessedClip(
                clip=clip,
                bucket=span.bucket,
                scores=scores,
                decision=decision,
                caption=caption_of(clip, flat, recipe) if decision.kept else None,
                thumbnail=thumbnails[int(middle)].as_py(),
                cpu_milliseconds=round(analysis.cpu_milliseconds * share, 1),
                signal_milliseconds={
                    name: round(value * share, 3) for name, value in analysis.signal_milliseconds.items()
                },
                hashes=clip_hashes(slices) if hashed else None,
            )
        )
    return assessed


def limit(assessed: Sequence[AssessedClip], *, max_clips: int) -> list[AssessedClip]:
    """At most `max_clips` kept ones (0: all), spread over all videos; the others are rejected as over_limit."""
    clip_ids = pa.array([item.clip.clip_id for item in assessed], pa.string())
    kept = np.array([item.decision.kept for item in assessed], bool)
    over = rules.over_limit(clip_ids, kept, max_clips=max_clips)
    return [
        replace(item, decision=rules.reject(item.clip.clip_id, rules.OVER_LIMIT), caption=None) if beyond else item
        for item, beyond in zip(assessed, over, strict=True)
    ]


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


def _decide(clip: Clip, scores: Scores, recipe: CurateRecipe) -> Decision:
    columns = {name: np.array([np.nan if value is None else value], float) for name, value in scores.items()}
    verdicts = rules.judge(columns, recipe.rules, shortest_seconds=shortest_seconds(recipe))
    return rules.decisions(verdicts, [clip.clip_id])[0]


def shortest_seconds(recipe: CurateRecipe) -> float:
    """What a shot must be longer than to become a clip."""
    return buckets.shortest_seconds(recipe.buckets, recipe.clips)


def caption_of(clip: Clip, scores: Mapping[str, Any], recipe: CurateRecipe) -> Caption:
    """What the recipe's captioner says of a clip."""
    assert recipe.captions.captioner == measured.MODEL, "the only captioner so far"
    return measured.caption(clip.clip_id, scores)
