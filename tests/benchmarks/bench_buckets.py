"""What planned buckets waste beside fixed ones, on three distributions of size and length.

`python -m tests.benchmarks.bench_buckets` prints a table for each: the graded corpus (sizes and lengths of its films as
they are planned, each cut where its labels say), the sample footage's manifest where it is at hand, and a mix written
down here. `--variant`, `--count` as for `curate buckets`; `--json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.bucket_plan.footage import Shot
from data_pipeline.bucket_plan.plan import plan_for, plan_text
from data_pipeline.bucket_plan.settings import PlanSettings
from tests.support.corpus.footage import SHOTS, all_takes
from tests.support.corpus.plan import plan

MANIFEST = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos" / "MANIFEST.tsv"
MIXED = (
    # Web video as the published sets describe it, after cutting: mostly 16:9 (Panda-70M is 720p; Koala-36M and
    # OpenVid-1M add 1080p and more), a tenth or two upright since phones, little square and 4:3. Width, height, share.
    ((1280, 720), 0.34),
    ((1920, 1080), 0.30),
    ((3840, 2160), 0.05),
    ((1080, 1920), 0.09),
    ((720, 1280), 0.06),
    ((640, 360), 0.05),
    ((640, 480), 0.04),
    ((1440, 1080), 0.03),
    ((1080, 1080), 0.03),
    ((2560, 1080), 0.01),
)
_MIXED_SHOTS, _MEDIAN_SECONDS, _SPREAD = 20_000, 4.6, 0.8
"""Lengths are log-normal: median 4.6 s, mean 6.3 s; Panda-70M's mean is 8.5 s with pieces of a scene joined again."""


def mixed() -> list[Shot]:
    """The mix above, drawn with a fixed seed."""
    random = np.random.default_rng(0)
    sizes, shares = zip(*MIXED, strict=True)
    drawn = random.choice(len(sizes), _MIXED_SHOTS, p=np.array(shares) / sum(shares))
    seconds = random.lognormal(np.log(_MEDIAN_SECONDS), _SPREAD, _MIXED_SHOTS).clip(0.4, 120)
    chosen = [sizes[index] for index in drawn]
    return [Shot(width, height, float(length)) for (width, height), length in zip(chosen, seconds, strict=True)]


def footage(manifest: Path) -> list[Shot]:
    """The sample footage by its manifest, cut where it was looked at."""
    shots = []
    with manifest.open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            if row["frames"].isdigit() and float(row["fps"] or 0) > 0 and "x" in row["resolution"]:
                width, height = (int(side) for side in row["resolution"].split("x"))
                cuts = [int(cut) for cut in row["hard_cuts_seen"].split(",") if cut.isdigit()]
                edges = [0, *cuts, int(row["frames"])]
                rate = int(row["frames"]) / float(row["duration_s"])
                shots += [Shot(width, height, (stop - start) / rate) for start, stop in pairwise(edges)]
    return shots


def corpus() -> list[Shot]:
    """The 200 graded films as they are planned, cut at their labels."""
    return [
        Shot(film.recording.width, film.recording.height, segment.frames / film.recording.fps)
        for film in plan(all_takes(list(SHOTS)), files=200, seed=0)
        for segment in film.segments
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="cogvideox-5b")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--manifest", type=Path, default=MANIFEST)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = {
        "corpus": corpus(),
        "mix": mixed(),
        **({"footage": footage(options.manifest)} if options.manifest.is_file() else {}),
    }
    results: dict[str, Any] = {}
    for name, shots in sets.items():
        started = time.process_time()
        results[name] = plan_for(shots, PlanSettings(variant=options.variant, count=options.count), basis=name)
        results[name]["cpu_seconds"] = round(time.process_time() - started, 1)
        if not options.json:
            print(plan_text(results[name]).partition("\nwaste =")[0], f"\n{results[name]['cpu_seconds']} CPU s\n")
    if options.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
