"""How much of its time a captioning model is busy: a model of known cost per batch behind the true stages on Ray.

python -m tests.benchmarks.bench_captions [--seconds 2.0] [--batches 12] [--films FOLDER]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

from data_pipeline.captions import routes
from data_pipeline.captions.routes import SeenClip
from data_pipeline.captions.settings import CaptionerSettings, ModelSettings
from groundwork.footage import sample_footage
from groundwork.media import probe
from groundwork.ray_session import prepare_environment, ray_session
from tests.support import slow_captioner

CLIP_SECONDS = 2.0
FILMS = (".mp4", ".mkv", ".webm", ".mov", ".mpg")


def clips_of(films: list[Path], count: int) -> list[SeenClip]:
    """Clips of two seconds, from the films in turn, again from the beginning when they end."""
    spans = []
    for film in films:
        whole = probe(film).duration_seconds
        spans += [(film, start * CLIP_SECONDS) for start in range(max(1, int(whole // CLIP_SECONDS)))]
    found = []
    for number, (film, start) in enumerate(itertools.islice(itertools.cycle(spans), count)):
        found.append(SeenClip(f"{number:024d}", str(film.parent), film.name, start, start + CLIP_SECONDS))
    return found


def measure(seconds: float, batches: int, films: list[Path], *, batch_clips: int = 8) -> dict[str, float]:
    """Busy share of the model's process between its first and its last batch, and what a batch costs around it."""
    prepare_environment()  # before Ray is imported
    from data_pipeline.captions.pipeline import Width, stream
    from data_pipeline.captions.stage import to_row

    model = ModelSettings(backend="python", model="tests.support.slow_captioner:slow")
    captioner = CaptionerSettings(name="slow", route="video", video=model, batch_clips=batch_clips, decoders=2)
    clips = clips_of(films, batches * batch_clips)
    rows = [to_row(clips[first : first + batch_clips]) for first in range(0, len(clips), batch_clips)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        os.environ |= {slow_captioner.SECONDS: str(seconds), slow_captioner.LOG: str(log)}
        with ray_session():
            began = time.monotonic()
            keys = routes.part_keys(captioner)
            outcomes = list(stream(rows, captioner, out=f"{folder}/out", keys=keys, width=Width(cpus=0.5)))
            whole = time.monotonic() - began
        spans = sorted(tuple(float(value) for value in line.split()[:2]) for line in log.read_text().splitlines())
    assert len(outcomes) == len(clips), f"{len(outcomes)} outcomes of {len(clips)} clips"
    assert all(outcome.status == "ok" for outcome in outcomes), outcomes
    busy = sum(stop - start for start, stop in spans)
    between = spans[-1][1] - spans[0][0]
    return {
        "clips": len(clips),
        "batches": len(spans),
        "seconds_per_batch": seconds,
        "busy_share": round(busy / between, 4),
        "idle_milliseconds_per_batch": round(1000 * (between - busy) / max(1, len(spans) - 1), 1),
        "seconds": round(whole, 2),
    }


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--films", type=Path)
    given = parser.parse_args()
    films = list(sample_footage())
    if given.films:
        films = sorted(path for path in given.films.iterdir() if path.suffix in FILMS)
    print(json.dumps(measure(given.seconds, given.batches, films), indent=2))


if __name__ == "__main__":
    main()
