"""Buckets and footage become losses: what is padded, cropped, dropped, upscaled, and given up in detail and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from cogvideox import shape
from data_pipeline.bucket_plan.footage import Footage
from data_pipeline.buckets import Weights, shape_losses

Size = tuple[int, int, int]
"""Frames, rows, columns of a bucket."""
HARD = ("padded", "cropped", "dropped", "upscaled")
"""Losses that make up the waste; shrunk and shortened are what better buckets would have shown besides."""


@dataclass(frozen=True)
class Losses:
    """Shares of all pixels of all frames (above a bucket's size not counted). `clips` and `mean_frames` of the film."""

    padded: float
    cropped: float
    dropped: float
    upscaled: float
    shrunk: float
    shortened: float
    clips: float
    mean_frames: float

    @property
    def waste(self) -> float:
        """What is padded, cropped, dropped and upscaled."""
        return self.padded + self.cropped + self.dropped + self.upscaled

    def cost(self, weights: Weights) -> float:
        """The weighted sum that a plan makes small."""
        return float(sum(weight * getattr(self, name) for name, weight in weights))


@dataclass(frozen=True)
class Limits:
    """What the model takes: `frames` a bucket may have, in order; `patch_frames` latent frames to a token;
    `largest` pixels per frame that are worth something."""

    frames: tuple[int, ...]
    patch_frames: int
    largest: float


def losses(footage: Footage, buckets: Sequence[Size], limits: Limits) -> Losses:
    """What the buckets lose when every shot is cut as `buckets.choose_bucket` says: from what is left of it, the shape
    that loses least of the picture, of those with a length that fits, and the longest of its lengths that does."""
    chosen = sorted(set(buckets))
    frames, rows, columns = (np.array(side) for side in zip(*chosen, strict=True))
    own = shape_losses(
        rows[:, None] * 1.0,
        columns[:, None] * 1.0,
        height=footage.heights * 1.0,
        width=footage.widths * 1.0,
        largest=limits.largest,
    )
    worth, areas, padding = footage.worth(limits.largest), rows * columns, _padding(frames, limits.patch_frames)
    taken = _taken(own.cost(), frames, areas, most=int(footage.instants[-1]))
    ideal = _ideal(limits.frames, int(footage.instants[-1]))
    left = np.broadcast_to(footage.instants, footage.counts.shape).copy()
    sizes = np.arange(len(worth))[:, None]
    found = dict.fromkeys(("padded", "cropped", "dropped", "upscaled", "shrunk", "shortened", "clips", "frames"), 0.0)
    while ((bucket := taken[sizes, left]) >= 0).any():
        counts = np.where(bucket >= 0, footage.counts, 0.0)
        used = counts * frames[bucket]
        for name in ("cropped", "upscaled", "shrunk"):
            found[name] += float((used * getattr(own, name)[bucket, sizes]).sum())
        found["padded"] += float((counts * padding[bucket] * areas[bucket]).sum())
        lack = 1 - frames[bucket] / np.maximum(ideal[left], frames[bucket])
        found["shortened"] += float((used * lack * worth[:, None]).sum())
        found["clips"], found["frames"] = found["clips"] + float(counts.sum()), found["frames"] + float(used.sum())
        left = np.where(bucket >= 0, left - frames[bucket], left)
    found["dropped"] = float((footage.counts * left * worth[:, None]).sum())
    clips, shown = found.pop("clips"), found.pop("frames")
    total = footage.total(limits.largest)
    return Losses(
        **{name: value / total for name, value in found.items()},
        clips=clips,
        mean_frames=shown / clips if clips else 0.0,
    )


def _taken(
    cost: Float[np.ndarray, "b n"], frames: Int[np.ndarray, " b"], areas: Int[np.ndarray, " b"], *, most: int
) -> Int[np.ndarray, "n m"]:
    """Number of the bucket that each size takes, by the instants left, 0 to `most`; -1 where none fits."""
    tied = np.zeros_like(cost)
    order = np.lexsort((tied - areas[:, None], tied - frames[:, None], np.round(cost, 6)), axis=0)
    taken = np.full((cost.shape[1], most + 1), -1)
    for place in reversed(range(len(frames))):
        fits = frames[order[place]][:, None] <= np.arange(most + 1)
        taken = np.where(fits, order[place][:, None], taken)
    return taken


def _padding(frames: Any, patch_frames: int) -> Float[np.ndarray, " b"]:
    """Frames' worth of tokens that hold nothing, in a clip of so many frames."""
    latents = [shape.latent_frames(int(count)) for count in np.atleast_1d(frames)]
    padded = [shape.padded_latent_frames(count, patch_frames=patch_frames) / count - 1 for count in latents]
    shares: Float[np.ndarray, " b"] = np.atleast_1d(frames) * np.array(padded)
    return shares


def _ideal(allowed: Sequence[int], most: int) -> Int[np.ndarray, " m"]:
    """The greatest length allowed that fits, by the instants there are."""
    lengths: Int[np.ndarray, " m"] = np.array([0, *allowed])[
        np.searchsorted(allowed, np.arange(most + 1), side="right")
    ]
    return lengths


@cache
def cuts(
    lengths: tuple[int, ...], allowed: tuple[int, ...], patch_frames: int, most: int
) -> Mapping[str, Float[np.ndarray, " m"]]:
    """What cutting into these lengths (from the longest on) takes, by the instants that fit on a shot, 0 to `most`:
    frames used by its clips, and frames lost to padding and to clips shorter than what would have fitted."""
    left, ideal = np.arange(most + 1), _ideal(allowed, most)
    found = {name: np.zeros(most + 1) for name in ("used", "padded", "shortened")}
    for frames in lengths:
        padding = float(_padding(frames, patch_frames)[0])
        while (fits := left >= frames).any():
            found["used"] += frames * fits
            found["padded"] += padding * fits
            found["shortened"] += np.where(fits, frames * (1 - frames / np.maximum(ideal[left], frames)), 0)
            left = np.where(fits, left - frames, left)
    return found


def plain(found: Losses) -> dict[str, Any]:
    """Shares, rounded, for people and JSON."""
    shares = {name: round(getattr(found, name), 4) for name in (*HARD, "shrunk", "shortened")}
    return {"waste": round(found.waste, 4), **shares, "mean_frames": round(found.mean_frames, 1)}
