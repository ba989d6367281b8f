"""CPU seconds per second of kept clip: copied, encoded at bucket size, and all of the film encoded before it is sorted.

    python -m tests.benchmarks.bench_cut FILM [--clip-seconds 6] [--keep 0.1] [--bucket 49x480x720] [--rounds 1]

The peers' way (PySceneDetect, data-juicer, NeMo Curator) encodes every clip with x264 veryfast, whatever is kept later:
its cost per kept second is the cost per second over the share that is kept. All in one process with one thread.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.cut import CutJob, cut_clip
from data_pipeline.recipe import Bucket, MediaSettings
from groundwork import cutting
from groundwork.container import opened, pictures

_PEER_CRF = 22  # PySceneDetect's default, with veryfast


def jobs_of(film: Path, *, clip_seconds: float, bucket: Bucket) -> tuple[list[CutJob], float]:
    """The film as consecutive clips, and the time base of their stamps."""
    with opened(film) as (container, stream):
        stamps = [picture.pts for picture, _ in pictures(container, stream, path=film, on_damage=None)]
        base = float(stream.time_base)
    seconds = (np.array(stamps) - stamps[0]) * base
    starts = np.searchsorted(seconds, np.arange(0, seconds[-1] - clip_seconds, clip_seconds))
    fps = (bucket.num_frames - 1) / clip_seconds
    return [
        CutJob(f"{number:024x}", stamps[first], stamps[stop], float(seconds[first]), fps, bucket, str(number))
        for number, (first, stop) in enumerate(pairwise(starts.tolist()))
    ], base


def per_second(work: Callable[[], object], *, seconds: float, rounds: int) -> float:
    """Least CPU seconds of the rounds, per second of film."""
    least = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        work()
        least = min(least, time.process_time() - started)
    return least / seconds


def main() -> None:
    """Prints one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("film", type=Path)
    parser.add_argument("--clip-seconds", type=float, default=6.0)
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--bucket", default="49x480x720")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    num_frames, height, width = (int(number) for number in options.bucket.split("x"))
    bucket = Bucket(num_frames=num_frames, height=height, width=width)
    jobs, base = jobs_of(options.film, clip_seconds=options.clip_seconds, bucket=bucket)
    seconds = sum(job.stop_pts - job.start_pts for job in jobs) * base
    modes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "clip.mp4"

        def cut_all(settings: MediaSettings) -> None:
            modes.clear()
            modes.update(cut_clip(options.film, target, job, settings).mode for job in jobs)

        def peer() -> None:
            for job in jobs:
                span = {"start_pts": job.start_pts, "stop_pts": job.stop_pts}
                cutting.cut_encode(options.film, target, crf=_PEER_CRF, **span)

        cost, how = {}, {}
        for name, settings in {
            "copy": MediaSettings(mode="copy", verify=False),
            "copy_verified": MediaSettings(mode="copy"),
            "encode_bucket": MediaSettings(mode="encode"),
        }.items():
            cost[name] = per_second(lambda said=settings: cut_all(said), seconds=seconds, rounds=options.rounds)  # type: ignore[misc]
            how[name] = dict(modes)
        everything = per_second(peer, seconds=seconds, rounds=options.rounds)
    cost["encode_everything_first"] = everything / options.keep
    result = {
        "film": options.film.name,
        "clips": len(jobs),
        "keep": options.keep,
        "modes": how,
        "cpu_seconds_per_kept_second": {name: round(value, 4) for name, value in cost.items()},
        "ratio": {name: round(cost["encode_everything_first"] / value, 1) for name, value in cost.items()},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
