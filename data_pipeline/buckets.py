"""A shot's length and shape become a bucket: the shape that loses least of the picture, then the longest that fits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from data_pipeline.recipe import Bucket, ClipSettings
from groundwork.config import FrozenModel
from groundwork.errors import RecipeError

_MARGIN_SECONDS = 1e-3
"""The last instant lies before the shot's end by what `groundwork.instants` forgives, so that no frame of the next shot
is ever taken."""


class Weights(FrozenModel):
    """What a lost pixel costs."""

    padded: float = Field(default=1.0, ge=0)
    """Tokens that hold nothing."""
    cropped: float = Field(default=1.0, ge=0)
    """Outside the bucket's shape."""
    dropped: float = Field(default=1.0, ge=0)
    """Of a shot behind its last clip, or of one that is too short."""
    upscaled: float = Field(default=1.0, ge=0)
    """Invented, where a source is smaller than its bucket."""
    shrunk: float = Field(default=0.5, ge=0)
    """Detail that a larger bucket would have kept."""
    shortened: float = Field(default=0.5, ge=0)
    """Length given up: a frame in a clip of half the length that its shot allows counts half."""


WEIGHTS = Weights()
"""Those by which clips choose their bucket."""


@dataclass(frozen=True)
class ShapeLosses:
    """Pixels per frame that a source loses in a bucket's shape, or gains without showing more. Numbers or arrays."""

    cropped: Any
    shrunk: Any
    upscaled: Any

    def cost(self, weights: Weights = WEIGHTS) -> Any:
        """Their weighted sum."""
        return weights.cropped * self.cropped + weights.shrunk * self.shrunk + weights.upscaled * self.upscaled


def shape_losses(bucket_height: Any, bucket_width: Any, *, height: Any, width: Any, largest: float) -> ShapeLosses:
    """A source scaled to cover the bucket and cropped at the centre. `largest`: more pixels per frame than this are
    worth nothing, as no bucket could hold them. Numbers, or arrays that broadcast."""
    aspect, own = bucket_width / bucket_height, width / height
    seen = np.minimum(aspect / own, own / aspect)  # share of the source's picture that is left
    area, worth = bucket_height * bucket_width, np.minimum(height * width, largest)
    return ShapeLosses(
        cropped=worth * (1 - seen),
        shrunk=np.maximum(0, seen * worth - area),
        upscaled=np.maximum(0, area - seen * height * width),
    )


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
    allowed = allowed_buckets(buckets, settings)
    moving = [bucket for bucket in allowed if bucket.num_frames > 1]
    shortest = min(bucket.num_frames for bucket in moving or allowed)
    return max(settings.min_seconds, needed_seconds(shortest, fps=settings.fps))


def choose_bucket(
    buckets: Sequence[Bucket], *, seconds: float, fps: float, height: int, width: int, still: bool = False
) -> Bucket | None:
    """Of the buckets that fit into `seconds`, those of the shape that loses least of the picture, and of them the
    longest. None when even the shortest does not fit. A `still`, an image, takes a bucket of one frame and film never
    does, else the rest of every shot would become an image."""
    fitting = [
        bucket
        for bucket in buckets
        if (bucket.num_frames == 1) == still
        and (still or needed_seconds(bucket.num_frames, fps=fps) < seconds - _MARGIN_SECONDS)
    ]
    if not fitting:
        return None
    largest = max(bucket.height * bucket.width for bucket in buckets)

    def preference(bucket: Bucket) -> tuple[float, int, int]:
        losses = shape_losses(bucket.height, bucket.width, height=height, width=width, largest=largest)
        return round(float(losses.cost()), 6), -bucket.num_frames, -bucket.height * bucket.width

    return min(fitting, key=preference)


def upscale(bucket: Bucket, *, height: int, width: int) -> float:
    """How much a source of this size must be enlarged to cover the bucket; above 1 pixels are invented."""
    return max(bucket.height / height, bucket.width / width)
