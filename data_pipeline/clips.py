"""Shots become consecutive clips of bucket length: exact instants, integer time stamps, an id from both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.buckets import allowed_buckets, choose_bucket
from data_pipeline.fingerprint import short_hash
from data_pipeline.recipe import Bucket, ClipSettings


@dataclass(frozen=True)
class Timeline:
    """Time stamps of a video's decoded frames and the indices of the first frames of its shots.

    `seconds` counts from the first frame's stamp; both arrays increase. `between`: frames of fades, at the ends of
    shots, which belong to none; None: there are no such frames.
    """

    pts: np.ndarray
    seconds: np.ndarray
    shot_starts: Sequence[int]
    between: np.ndarray | None = None

    @property
    def still(self) -> bool:
        """Whether it is an image: one picture and no more."""
        return len(self.pts) == 1

    def frame_seconds(self) -> float:
        """Median time between frames; 1/25 s for a single picture."""
        return float(np.median(np.diff(self.seconds))) if len(self.seconds) > 1 else 0.04

    def index_at(self, seconds: float) -> int:
        """The first frame shown at `seconds` or later."""
        return int(np.searchsorted(self.seconds, seconds - 1e-6))

    def shots(self) -> list[tuple[int, int]]:
        """First frame (inclusive) and last frame (exclusive) of each shot."""
        return list(zip(self.shot_starts, [*self.shot_starts[1:], len(self.pts)], strict=True))

    def without_fades(self, first: int, stop: int) -> tuple[int, int]:
        """The frames of a shot between its fades; a shot that is nothing but fade has none."""
        if self.between is None:
            return first, stop
        clear = np.flatnonzero(~self.between[first:stop])
        return (first + int(clear[0]), first + int(clear[-1]) + 1) if len(clear) else (stop, stop)


@dataclass(frozen=True)
class Span:
    """A planned clip: frames [start, stop) of the timeline; `bucket` is None for a shot too short for any."""

    start: int
    stop: int
    bucket: Bucket | None


def plan_clips(
    timeline: Timeline, settings: ClipSettings, buckets: Sequence[Bucket], *, height: int, width: int
) -> Iterator[Span]:
    """Cut each shot into consecutive clips, each of the longest bucket length that still fits; with `stride_seconds`,
    a clip begins at every stride instead, and clips may overlap or leave gaps.

    A frame stays on display until the next, so a shot ends where the next begins. What remains of a shot behind its
    last clip is left out; a shot too short for any bucket, or for `min_seconds`, comes out once, without a bucket. An
    image is one clip.
    """
    if timeline.still:
        yield Span(0, 1, choose_bucket(buckets, seconds=0.0, fps=settings.fps, height=height, width=width, still=True))
        return
    allowed = allowed_buckets(buckets, settings)
    for (first, last), (start, stop) in zip(timeline.shots(), usable_shots(timeline, settings), strict=True):
        spans = list(_cut(timeline, start, stop, settings, allowed, height=height, width=width))
        # A shot of which the trimming leaves nothing is shown whole.
        yield from spans or [Span(start, stop, None) if start < stop else Span(first, last, None)]


def usable_shots(timeline: Timeline, settings: ClipSettings) -> Iterator[tuple[int, int]]:
    """First frame (inclusive) and last (exclusive) of each shot between its fades, trimmed where it borders on others;
    of a short one nothing may be left."""
    for number, (first, last) in enumerate(timeline.shots()):
        clear_first, clear_last = timeline.without_fades(first, last)
        start = clear_first + (settings.trim_frames if number > 0 or clear_first > first else 0)
        yield start, clear_last - (settings.trim_frames if clear_last < len(timeline.pts) else 0)


def _cut(
    timeline: Timeline,
    start: int,
    stop: int,
    settings: ClipSettings,
    buckets: Sequence[Bucket],
    *,
    height: int,
    width: int,
) -> Iterator[Span]:
    if start >= stop or end_seconds(timeline, stop) - float(timeline.seconds[start]) < settings.min_seconds - 1e-6:
        return
    while start < stop:
        began = float(timeline.seconds[start])
        left = end_seconds(timeline, stop) - began
        bucket = choose_bucket(buckets, seconds=left, fps=settings.fps, height=height, width=width)
        if bucket is None:
            return
        end = min(stop, timeline.index_at(began + bucket.num_frames / settings.fps))
        yield Span(start, end, bucket)
        start = max(start + 1, timeline.index_at(began + settings.stride_seconds)) if settings.stride_seconds else end


def end_seconds(timeline: Timeline, stop: int) -> float:
    """When the frame before `stop` leaves the display; the film's last one stays no longer than the one before it."""
    if stop < len(timeline.seconds):
        return float(timeline.seconds[stop])
    before = timeline.seconds[-1] - timeline.seconds[-2] if len(timeline.seconds) > 1 else math.inf
    return float(timeline.seconds[-1]) + min(timeline.frame_seconds(), float(before))


def end_pts(timeline: Timeline, stop: int) -> int:
    """The exclusive end of a span in time stamps."""
    if stop < len(timeline.pts):
        return int(timeline.pts[stop])
    steps = np.diff(timeline.pts)
    return int(timeline.pts[-1]) + (max(1, min(int(np.median(steps)), int(steps[-1]))) if len(steps) else 1)


def clip_id(video_id: str, *, start_pts: int, stop_pts: int, time_base: tuple[int, int]) -> str:
    """Hash of what the clip is: video, time stamps, time base, crop (none here: the whole picture)."""
    return short_hash(video_id, start_pts, stop_pts, list(time_base), None)
