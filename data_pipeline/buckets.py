"""A shot's length and shape become a bucket: the longest that fits, then the nearest shape."""

from __future__ import annotations

import math
from collections.abc import Sequence

from data_pipeline.recipe import Bucket, ClipSettings
from groundwork.errors import RecipeError

_MARGIN_SECONDS = 1e-3
"""The last instant lies before the shot's end by what `groundwork.instants` forgives, so that no frame of the next shot
is ever taken."""


def needed_seconds(num_frames: int, *, fps: float) -> float:
    """From the first sampled instant to the last: what a shot must hold at least."""
    return (num_frames - 1) / fps


def allowed_buckets(buckets: Sequence[Bucket], settings: ClipSettings) -> list[Bucket]:
    """Those no longer than `max_seconds`. Raises RecipeError when that leaves none."""
    longest = settings.max_seconds or math.inf
    allowed = [bucket for bucket in buckets if needed_seconds(bucket.num_frames, fps=settings.fps) <= longest + 1e-6]
    if not allowed:
        raise RecipeError(f"clips.max_seconds: no bucket lasts {longest:g} s or less at {settings.fps:g} frames/s.")
    return allowed


def shortest_seconds(buckets: Sequence[Bucket], settings: ClipSettings) -> float:
    """What a shot must last to become a clip."""
    shortest = min(bucket.num_frames for bucket in allowed_buckets(buckets, settings))
    return max(settings.min_seconds, needed_seconds(shortest, fps=settings.fps))


def choose_bucket(buckets: Sequence[Bucket], *, seconds: float, fps: float, height: int, width: int) -> Bucket | None:
    """The bucket of the longest clip that fits into `seconds`; of equal lengths the one of nearest aspect ratio, then
    of most pixels. None when even the shortest does not fit."""
    fitting = [bucket for bucket in buckets if needed_seconds(bucket.num_frames, fps=fps) < seconds - _MARGIN_SECONDS]
    if not fitting:
        return None

    def preference(bucket: Bucket) -> tuple[float, float, int]:
        off_shape = abs(math.log(bucket.width / bucket.height) - math.log(width / height))
        return -bucket.num_frames, off_shape, -bucket.height * bucket.width

    return min(fitting, key=preference)


def upscale(bucket: Bucket, *, height: int, width: int) -> float:
    """How much a source of this size must be enlarged to cover the bucket; above 1 pixels are invented."""
    return max(bucket.height / height, bucket.width / width)
