"""CPU milliseconds per clip of everything behind the decode pass, for more and more clips: it should stay flat.

python -m tests.benchmarks.bench_curation_scale [--clips 100 1000 10000 100000]

The rows are synthetic: measurements of one real film, cut up anew and with hashes of its own for each video, so that
no two clips are copies. Finding shots, scores, decisions, copies, tables, manifest and report are the real ones.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.analysis import Analysis, analyse
from data_pipeline.assess import assess
from data_pipeline.encode import models_used
from data_pipeline.ingest import Source
from data_pipeline.measurements import MeasureJob
from data_pipeline.recipe import CurateRecipe
from data_pipeline.steps import Run, code_fingerprints, decide, gather, publish, with_looks
from groundwork.footage import sample_footage
from groundwork.media import probe
from groundwork.storage import open_storage

CLIPS_PER_VIDEO = 20
FRAMES_PER_CLIP = 12
FPS = 8.0
RECIPE = {
    "buckets": [{"num_frames": 9, "height": 96, "width": 144}],
    # Nothing is kept: what is kept is encoded, and that is no matter of rows.
    "rules": {"static": {"score": "motion_score", "below": 1e9}},
}


def real_measurements() -> Analysis:
    """The first second or so of a real film, at 8 frames per second."""
    film = next(path for path in sample_footage() if path.name == "bikes.mp4")
    analysis = analyse(film, header=probe(film))
    return replace(analysis, frames=analysis.frames.slice(0, CLIPS_PER_VIDEO * FRAMES_PER_CLIP))


def video(base: Analysis, number: int) -> Analysis:
    """The same measurements with a cut every 12 frames and hashes of its own."""
    rng = np.random.default_rng(number)
    count = CLIPS_PER_VIDEO * FRAMES_PER_CLIP
    index = np.arange(count)
    columns = {name: base.frames.column(name) for name in base.frames.column_names}
    thumbnail = next(value for value in columns["thumbnail"].to_pylist() if value)
    columns |= {
        "pts": pa.array(index),
        "seconds": pa.array(index / FPS),
        "content": pa.array(np.where(index % FRAMES_PER_CLIP == 0, 90.0, 1.0).astype(np.float32)),
        "thumbnail": pa.array([thumbnail if i % 4 == 0 else None for i in index], pa.binary()),
    }
    for name, column in columns.items():
        if pa.types.is_uint64(column.type):
            columns[name] = pa.array(rng.integers(1, 1 << 63, count, dtype=np.uint64))
    header = replace(base.header, fps=FPS, duration_seconds=count / FPS, time_base_num=1, time_base_den=int(FPS))
    return replace(base, header=header, frames=pa.table(columns))


def measure(clips: int, folder: Path, base: Analysis) -> dict[str, Any]:
    """CPU milliseconds per clip of the steps, and the memory at their end."""
    recipe = CurateRecipe.model_validate(RECIPE)
    videos = -(-clips // CLIPS_PER_VIDEO)
    sources = [Source(f"/films/{i:08d}.mp4", "/films", f"{i:08d}.mp4", 1, "1", f"{i:024x}") for i in range(videos)]
    models = models_used(recipe.variant, weights=recipe.encode.weights)
    run = Run(recipe, open_storage(str(folder)), sources, models, code_fingerprints(recipe, models=models))
    for number, source in enumerate(sources):
        job = MeasureJob(source.video_id, source.folder, source.name)
        run.measurements.write(job, video(base, number), num_parts=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    steps = {}
    started = time.process_time()

    def lap(step: str) -> None:
        nonlocal started
        now = time.process_time()
        steps[step], started = round(1000 * (now - started) / clips, 4), time.process_time()

    for source in sources:  # what the pool of workers does
        analysis = run.measurements.read(source.video_id)
        run.assessed.write(source.video_id, assess(source.video_id, analysis, recipe), analysis)
    lap("shots, scores")
    curated = with_looks(run, gather(run, {}), {})
    lap("columns")
    curated = decide(run, curated)
    lap("decisions, copies")
    manifest = publish(run, curated, {}, {})
    lap("tables, manifest, report")
    assert manifest["clips"]["found"] == videos * CLIPS_PER_VIDEO, manifest["clips"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return {
        "clips": clips,
        **steps,
        "cpu_milliseconds_per_clip": round(sum(steps.values()), 4),
        "before_mib": before,
        "peak_mib": peak,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure each size and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_curation_scale", description=__doc__)
    parser.add_argument("--clips", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    options = parser.parse_args(argv)
    base = real_measurements()
    rows = []
    for clips in options.clips:
        with tempfile.TemporaryDirectory(prefix="cvx-scale-") as folder:
            rows.append(measure(clips, Path(folder), base))
            print(rows[-1], file=sys.stderr)
    first, last = rows[0]["cpu_milliseconds_per_clip"], rows[-1]["cpu_milliseconds_per_clip"]
    print(json.dumps({"rows": rows, "growth": round(last / first, 3)}, indent=2))


if __name__ == "__main__":
    main()
