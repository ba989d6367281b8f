"""A finished dataset, or plain assumptions, become rates: what an hour of footage yields and costs, as intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float

from data_pipeline.clips import Timeline, plan_clips
from data_pipeline.recipe import CurateRecipe
from data_pipeline.stored import align, numbers, read, read_clips, read_manifest
from groundwork.errors import InputError
from groundwork.storage import Storage

_RESAMPLES = 400
_PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Interval:
    """A quantity that is not known yet: likely value, and bounds that hold nine times in ten, or as assumed."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> Interval:
        return Interval(self.low * factor, self.likely * factor, self.high * factor)

    def along(self, other: Interval) -> Interval:
        """Product, both at their low, likely and high ends."""
        return Interval(self.low * other.low, self.likely * other.likely, self.high * other.high)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def plain(self, digits: int = 4) -> list[float]:
        """[low, likely, high], rounded."""
        return [round(value, digits) for value in (self.low, self.likely, self.high)]


NOTHING = Interval(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Rates:
    """`found_per_hour`: clips found per hour of footage; `kept_share`: of those, 0 to 1; `analyse_seconds_per_hour`:
    CPU seconds per hour of footage; `encode_seconds`: CPU (or GPU) seconds per million pixels of a kept clip, None:
    not known. `bucket_shares`: of the kept clips, by bucket folder. `basis` says where all this comes from.
    """

    basis: str
    found_per_hour: Interval
    kept_share: Interval
    analyse_seconds_per_hour: Interval
    encode_seconds: Interval | None
    bucket_shares: Mapping[str, float]


@dataclass(frozen=True)
class Shape:
    """What the headers say of the footage: picture size, frames per second, seconds."""

    width: int
    height: int
    fps: float
    seconds: float


ASSUMED_SHOT_SECONDS = Interval(12.0, 5.0, 2.5)
"""Seconds from cut to cut. Edited footage has 2 to 5; a camera left running has minutes."""
ASSUMED_KEPT_SHARE = Interval(0.04, 0.3, 0.9)
"""Cosmos-Predict2.5 kept 4 %, Open-Sora Plan 27 to 42 %; clean footage with mild rules keeps nearly all."""
ASSUMED_FRAME_MS = (2.2, 2.0)
"""CPU milliseconds to decode and measure a frame: at zero pixels, and more per million pixels (H.264, one thread)."""
ASSUMED_COST_SPREAD = (0.6, 1.0, 2.5)
"""How far footage of low or high bit rate, and other codecs, stray from that."""


def assumed_rates(recipe: CurateRecipe, footage: Sequence[Shape]) -> Rates:
    """Rates without any experience: the clip planner on shots of an assumed length, and assumed costs."""
    hours = sum(shape.seconds for shape in footage) / 3600
    counts = [_planned(recipe, footage, shot_seconds=seconds) for seconds in _ends(ASSUMED_SHOT_SECONDS)]
    low, high = min(sum(c.values()) for c in counts), max(sum(c.values()) for c in counts)
    likely = sum(counts[1].values())
    base, slope = ASSUMED_FRAME_MS
    cost = sum(s.seconds * s.fps * (base + slope * s.width * s.height / 1e6) for s in footage) / 1000
    spread = Interval(*ASSUMED_COST_SPREAD)
    return Rates(
        basis="assumptions of this command, not measurements: give --like DATASET, a sample curated before",
        found_per_hour=Interval(low, likely, high).times(1 / hours if hours else 0.0),
        kept_share=ASSUMED_KEPT_SHARE,
        analyse_seconds_per_hour=spread.times(cost / hours if hours else 0.0),
        encode_seconds=None,
        bucket_shares={bucket: count / max(1, likely) for bucket, count in sorted(counts[1].items())},
    )


def measured_rates(dataset: Storage, recipe: CurateRecipe) -> Rates:
    """Rates of a dataset that stands, with 90 % intervals by drawing its videos again and again.

    Raises InputError where no finished dataset lies, or one whose clips or buckets are set otherwise.
    """
    manifest = read_manifest(dataset)
    made_by = CurateRecipe.model_validate(manifest["recipe"])
    if (made_by.buckets, made_by.clips.fps) != (recipe.buckets, recipe.clips.fps):
        raise InputError(f"{dataset.uri} was made with other buckets.", "Curate a sample with this recipe first.")
    videos = read(dataset, manifest, "videos", ("video_id", "duration_seconds", "status"))
    videos = videos.filter(pc.equal(videos.column("status"), "ok"))
    clips = read_clips(dataset, manifest, scores=())
    cost = align(read(dataset, manifest, "timings", ("clip_id", "cpu_milliseconds")), clips.clip_ids)
    index = pc.index_in(clips.video_ids, value_set=videos.column("video_id").combine_chunks()).to_numpy()
    count = len(videos)

    def per_video(weights: Float[np.ndarray, " n"] | None) -> Float[np.ndarray, " v"]:
        return np.bincount(index, weights=weights, minlength=count).astype(float)

    hours = numbers(videos.column("duration_seconds")) / 3600
    found, kept = per_video(None), per_video(clips.kept.astype(float))
    cpu = per_video(numbers(cost.column("cpu_milliseconds")) / 1000)
    draws = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count)) if count else np.zeros((1, 0), int)
    shards = {shard["bucket"]: 0 for shard in manifest["shards"]}
    for shard in manifest["shards"]:
        shards[shard["bucket"]] += shard["clips"]
    policy = manifest.get("policy", {}).get("name", "")
    return Rates(
        basis=f"{dataset.uri}: {count} videos, {hours.sum():.2f} h, policy {policy}",
        found_per_hour=_ratio(found, hours, draws),
        kept_share=_ratio(kept, found, draws),
        analyse_seconds_per_hour=_ratio(cpu, hours, draws),
        encode_seconds=_encode_seconds(manifest["seconds"], made_by, shards),
        bucket_shares={bucket: clips / max(1, sum(shards.values())) for bucket, clips in sorted(shards.items())},
    )


def million_pixels(bucket: str) -> float:
    """Pixels of a clip of a bucket folder such as 17x96x144, in millions."""
    return float(np.prod([int(part) for part in bucket.split("x")])) / 1e6


def _encode_seconds(seconds: Mapping[str, float], made_by: CurateRecipe, shards: Mapping[str, int]) -> Interval | None:
    """Wall seconds of the encode stage times its processes: an upper bound of their busy time, start included."""
    work = sum(million_pixels(bucket) * clips for bucket, clips in shards.items())
    if not work or not seconds.get("encode"):
        return None
    most = seconds["encode"] * made_by.workers.encode / work
    return Interval(0.5 * most, 0.8 * most, most)


def _ratio(top: Float[np.ndarray, " v"], bottom: Float[np.ndarray, " v"], draws: np.ndarray) -> Interval:
    """Sum over sum, drawn again over the videos."""
    bottoms = bottom[draws].sum(axis=1)
    values = top[draws].sum(axis=1)[bottoms > 0] / bottoms[bottoms > 0]
    if not len(values):
        return NOTHING
    low, _, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    return Interval(low, float(top.sum() / bottom.sum()), high)


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.low, interval.likely, interval.high


def _planned(recipe: CurateRecipe, footage: Sequence[Shape], *, shot_seconds: float) -> dict[str, float]:
    """Clips per bucket folder when every film is cut every `shot_seconds`, by the clip planner itself."""
    shots: Counter[Shape] = Counter()
    for shape in footage:
        whole, rest = divmod(shape.seconds, shot_seconds)
        shots[_alike(shape, shot_seconds)] += int(whole)
        shots[_alike(shape, rest)] += 1
    counts: Counter[str] = Counter()
    for shape, number in shots.items():
        for bucket, clips in _one_shot(recipe, shape).items():
            counts[bucket] += number * clips
    return dict(counts)


def _alike(shape: Shape, seconds: float) -> Shape:
    """A shot's shape, rounded so that many are alike."""
    return replace(shape, fps=float(min(max(round(shape.fps), 1), 120)), seconds=round(seconds, 1))


def _one_shot(recipe: CurateRecipe, shape: Shape) -> Counter[str]:
    stamps = np.arange(max(1, round(shape.seconds * shape.fps)))
    timeline = Timeline(stamps, stamps / shape.fps, [0])
    spans = plan_clips(timeline, recipe.clips, recipe.buckets, height=shape.height, width=shape.width)
    return Counter(span.bucket.folder for span in spans if span.bucket is not None)
