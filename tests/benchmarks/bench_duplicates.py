"""Near-duplicates at scale: CPU seconds for many invented clips, and what is found of the copies among them.

    python -m tests.benchmarks.bench_duplicates [--clips 100000] [--copies 0.1] [--noise 4]

Clips are hash sequences as a film of 5 s gives them: a new picture every half second, drifting in between. A copy is
another clip from 1.3 s on, with some bits of every hash turned; nothing is decoded.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np
import pyarrow.compute as pc

from data_pipeline.duplicates.find import hash_pairs
from data_pipeline.duplicates.hashes import FRAMES, NUM_VIEWS, TICKS_PER_SECOND, ClipHashes
from data_pipeline.recipe import HashSettings
from tests.support.hashes import hash_table

_TICKS, _SHIFT = 5 * TICKS_PER_SECOND, 16


def film(numbers: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Hashes, views, movement and light of six and a half seconds."""
    ticks = _TICKS + _SHIFT
    pictures = numbers.integers(0, 1 << 64, ticks // 6 + 1, dtype=np.uint64, endpoint=False)
    dense = pictures[np.arange(ticks) // 6]
    for _ in range(2):
        drift = np.uint64(1) << numbers.integers(0, 64, ticks, dtype=np.uint64)
        dense = dense ^ drift
    views = numbers.integers(0, 1 << 64, (ticks, NUM_VIEWS - 1), dtype=np.uint64, endpoint=False)
    return (
        dense,
        views,
        numbers.gamma(2, 0.005, ticks).astype(np.float32),
        numbers.normal(0, 1, ticks).astype(np.float32),
    )


def clip(parts: tuple[np.ndarray, ...], *, first: int, noise: int, numbers: np.random.Generator) -> ClipHashes:
    """Five seconds of a film, with `noise` bits of each hash turned."""
    dense, views, movement, light = (part[first : first + _TICKS] for part in parts)
    for _ in range(noise):
        dense = dense ^ (np.uint64(1) << numbers.integers(0, 64, _TICKS, dtype=np.uint64))
    samples = np.arange(0, _TICKS, 3)
    probes = np.concatenate([dense[samples, None], views[samples]], axis=1)
    return ClipHashes(dense, probes, samples, movement, light)


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--copies", type=float, default=0.1)
    parser.add_argument("--noise", type=int, default=4)
    options = parser.parse_args()
    numbers = np.random.default_rng(0)
    clips: dict[str, ClipHashes] = {}
    expected = set()
    while len(clips) < options.clips:
        parts, name = film(numbers), f"{len(clips):08d}"
        clips[name] = clip(parts, first=0, noise=0, numbers=numbers)
        if numbers.random() < options.copies:
            copy = f"{len(clips):08d}"
            clips[copy] = clip(parts, first=_SHIFT, noise=options.noise, numbers=numbers)
            expected.add((name, copy))
    table = hash_table(clips, {name: name for name in clips})
    frames = table.select(["clip_id", "video_id", *FRAMES])
    started = time.process_time()
    pairs = hash_pairs(
        frames, HashSettings(), whole=lambda ids: table.filter(pc.is_in(table.column("clip_id"), value_set=ids))
    )
    seconds = time.process_time() - started
    found = {(min(pair.left, pair.right), max(pair.left, pair.right)) for pair in pairs}
    result = {
        "clips": len(clips),
        "copies": len(expected),
        "cpu_seconds": round(seconds, 2),
        "milliseconds_per_clip": round(1000 * seconds / len(clips), 3),
        "recall": round(len(found & expected) / max(1, len(expected)), 4),
        "precision": round(len(found & expected) / max(1, len(found)), 4),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
