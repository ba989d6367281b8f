"""A video's per-frame measurements become its clips, their scores, the decisions on them and their captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_pipeline import rules
from data_pipeline.analysis import Analysis
from data_pipeline.buckets import upscale
from data_pipeline.captions import measured
from data_pipeline.clips import Span, Timeline, clip_id, end_pts, end_seconds, plan_clips
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.signals import SIGNALS, score_names
from groundwork.records import Caption, Clip, Decision

CLIP_SCORES = ("seconds", "source_fps", "upscale")
"""Scores that follow from the clip itself: length, pictures per second, enlargement to cover the bucket."""


@dataclass(frozen=True)
class AssessedClip:
    """All that is known of a clip before it is encoded. `scores` by signal; too short shots have no bucket."""

    clip: Clip
    bucket: Bucket | None
    scores: Mapping[str, Mapping[str, float]]
    decision: Decision
    caption: Caption | None
    thumbnail: bytes
    cpu_milliseconds: float


def known_scores() -> frozenset[str]:
    """Every score that a rule may ask for."""
    return score_names() | set(CLIP_SCORES)


def assess(video_id: str, analysis: Analysis, recipe: CurateRecipe) -> list[AssessedClip]:
    """The clips of one video, in order of time. Pure: equal measurements and recipe give equal rows."""
    series = analysis.series()
    header = analysis.header
    timeline = Timeline(series["pts"], series["seconds"], [int(i) for i in np.flatnonzero(series["shot_start"])])
    spans = plan_clips(timeline, recipe.clips, recipe.buckets, height=header.height, width=header.width)
    thumbnails = analysis.frames.column("thumbnail")
    pictured = np.flatnonzero(thumbnails.is_valid().to_numpy())
    assessed = []
    for span in spans:
        clip = _clip(video_id, timeline, span, analysis)
        slices = {name: values[span.start : span.stop] for name, values in series.items()}
        scores = {name: signal.score(slices) for name, signal in SIGNALS.items()}
        flat = {name: value for values in scores.values() for name, value in values.items()}
        decision = _decide(clip, span, flat, recipe)
        middle = pictured[np.abs(pictured - (span.start + span.stop) / 2).argmin()]
        assessed.append(
            AssessedClip(
                clip=clip,
                bucket=span.bucket,
                scores=scores,
                decision=decision,
                caption=_caption(clip, flat, recipe) if decision.kept else None,
                thumbnail=thumbnails[int(middle)].as_py(),
                cpu_milliseconds=round(analysis.cpu_milliseconds * clip.num_frames / len(timeline.pts), 1),
            )
        )
    return assessed


def limit(assessed: Sequence[AssessedClip], *, max_clips: int) -> list[AssessedClip]:
    """At most `max_clips` kept ones (0: all), spread over all videos; the others are rejected as over_limit."""
    kept = sorted(item.clip.clip_id for item in assessed if item.decision.kept)
    if not max_clips or len(kept) <= max_clips:
        return list(assessed)
    over = set(kept[max_clips:])
    limited = []
    for item in assessed:
        if item.clip.clip_id in over:
            item = replace(item, decision=rules.reject(item.clip.clip_id, rules.OVER_LIMIT), caption=None)
        limited.append(item)
    return limited


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


def _decide(clip: Clip, span: Span, scores: Mapping[str, float], recipe: CurateRecipe) -> Decision:
    seconds = clip.stop_seconds - clip.start_seconds
    if span.bucket is None:
        shortest = min(bucket.num_frames for bucket in recipe.buckets)
        threshold = (shortest - 1) / recipe.clips.fps
        return rules.reject(
            clip.clip_id, rules.TOO_SHORT, score_name="seconds", score=round(seconds, 6), threshold=threshold
        )
    enlarged = upscale(span.bucket, height=clip.height, width=clip.width)
    derived = dict(zip(CLIP_SCORES, (seconds, clip.num_frames / seconds, enlarged), strict=True))
    return rules.decide(clip.clip_id, {**scores, **derived}, recipe.rules)


def _caption(clip: Clip, scores: Mapping[str, float], recipe: CurateRecipe) -> Caption:
    assert recipe.captions.captioner == measured.MODEL, "the only captioner so far"
    return measured.caption(clip.clip_id, {**scores, "seconds": clip.stop_seconds - clip.start_seconds})
