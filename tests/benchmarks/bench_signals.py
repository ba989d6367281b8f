"""What each signal costs: CPU milliseconds per frame of one decode pass, beside the decoding itself.

    python -m tests.benchmarks.bench_signals [FILE ...] [--frames 300] [--short-side 256]

Without files the sample footage is taken. `decode` is the bare decoder; `scale` is what making the analysis picture
adds. Times are CPU time of the measuring thread, least of the rounds, so that neighbours on the machine count little.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import av
import cv2

from data_pipeline.signals.measuring import Measuring
from data_pipeline.signals.picture import Picture
from groundwork import media
from groundwork.footage import sample_footage

_ROUNDS = 3


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--short-side", type=int, default=256)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    paths = options.files or sample_footage()
    found = [
        {
            "file": path.name,
            **_least([_measure(path, frames=options.frames, short_side=options.short_side) for _ in range(_ROUNDS)]),
        }
        for path in paths
    ]
    print(json.dumps({"unit": "CPU ms per frame", "short_side": options.short_side, "films": found}, indent=2))


def _measure(path: Path, *, frames: int, short_side: int) -> dict[str, float]:
    started = time.thread_time()
    count = _decode(path, frames=frames)
    decode = time.thread_time() - started
    measuring = Measuring()
    started = time.thread_time()
    for _, frame in zip(range(count), media.read_small(path, short_side=short_side), strict=False):
        measuring.update(Picture(frame))
    whole = time.thread_time() - started
    signals = sum(measuring.cpu_seconds.values())
    seconds = {"decode": decode, "scale": whole - signals - decode, **measuring.cpu_seconds, "signals": signals}
    return {name: round(1000 * value / count, 3) for name, value in {**seconds, "whole": whole}.items()}


def _decode(path: Path, *, frames: int) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return sum(1 for _ in zip(range(frames), container.decode(stream), strict=False))


def _least(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: min(one[name] for one in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
