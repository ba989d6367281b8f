"""The encode stage on Ray beside the bare loop: decode a span, encode it, write the row.

    python -m tests.benchmarks.bench_encode --size toy --clips 64
    python -m tests.benchmarks.bench_encode --size published --clips 12

Both do the same clips with the same models, in turns, each in a process of one thread for arithmetic; CPU seconds are
those of the process that encodes, the stage's with its decoding thread. `ratio` > 1: the stage is faster than the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from cogvideox.autoencoder import Autoencoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import save_autoencoder
from data_pipeline.encode import EncodeJob, decode, load_encoder
from data_pipeline.encode_workers import EncodeClips, film_rows
from data_pipeline.ingest import Source
from data_pipeline.recipe import Bucket, EncodeSettings
from data_pipeline.shards import stage
from groundwork import media
from groundwork.footage import sample_footage
from groundwork.ray_session import prepare_environment, ray_session
from groundwork.storage import open_storage

SIZES = {
    "toy": ("toy", Bucket(num_frames=17, height=96, width=144)),
    "published": ("cogvideox-2b", Bucket(num_frames=9, height=64, width=96)),
}


class Meter:
    """Seconds of the clock and of this process's processor time, from the first call's start to the last one's end."""

    def __init__(self) -> None:
        self.begin = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """So far."""
        return {"wall": time.perf_counter() - self.begin[0], "cpu": time.process_time() - self.begin[1]}


class MeteredStage(EncodeClips):
    """The stage's own actor; its last row tells what all of them took."""

    meter: Meter | None = None

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        self.meter = self.meter or Meter()
        told = super().__call__(row)
        return [{**one, "meter": json.dumps(self.meter.read())} for one in told]


class BareLoop:
    """The same work without anything around it: one clip after the other, in one thread."""

    def __init__(self, *, out: str, variant: str, settings: dict[str, Any], fingerprint: str, device: str) -> None:
        self._out, self._fingerprint = open_storage(out), fingerprint
        self._encoder = load_encoder(variant, EncodeSettings.model_validate(settings), device=device)

    def __call__(self, row: dict[str, Any]) -> list[dict[str, str]]:
        meter, films = Meter(), json.loads(row["payload"])
        for film in films:
            path = Path(film["folder"]) / film["name"]
            for plain in film["jobs"]:
                job = EncodeJob(**{**plain, "bucket": Bucket(**plain["bucket"])})
                (latent,) = self._encoder.encode_batch([(job, decode(path, job))])
                stage(self._out, job, latent, fingerprint=self._fingerprint)
        return [{"meter": json.dumps(meter.read())}]


def jobs(count: int, bucket: Bucket) -> tuple[list[EncodeJob], dict[str, Source]]:
    """Spans spread over the sample films."""
    films = [(path, media.probe(path)) for path in sample_footage()]
    length = bucket.num_frames / 8.0 + 0.3
    found, video_of = [], {}
    for number in range(count):
        path, header = films[number * len(films) // count]
        start = (number * 0.37) % max(0.1, header.duration_seconds - length)
        found.append(EncodeJob(f"{number:024d}", start, 8.0, bucket, ("a shot",)))
        video_of[found[-1].clip_id] = Source(str(path), str(path.parent), path.name)
    return found, video_of


def measure(worker: type, rows: list[dict[str, str]], arguments: dict[str, Any]) -> dict[str, float]:
    """One pass over the rows in one actor; its own account of clock and processor."""
    import ray.data  # after the environment that it reads was prepared
    from ray.data import ActorPoolStrategy

    with tempfile.TemporaryDirectory(prefix="cvx-bench-") as out:
        done = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
            worker,
            fn_constructor_kwargs={**arguments, "out": out},
            compute=ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1),
            num_cpus=1,
        )
        told = [json.loads(row["meter"]) for row in done.iter_rows()]
        staged = len(open_storage(out).list("work"))
    most = max(told, key=lambda one: one["wall"])
    return {**most, "clips": staged}


def main() -> None:
    """One JSON document on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="toy")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    os.nice(10)
    prepare_environment()
    variant, bucket = SIZES[options.size]
    found, video_of = jobs(options.clips, bucket)
    with tempfile.TemporaryDirectory(prefix="cvx-weights-") as weights, ray_session():
        if variant != "toy":
            torch.manual_seed(0)
            save_autoencoder(Autoencoder(VARIANTS[variant].autoencoder), Path(weights) / "vae", dtype=torch.bfloat16)
        settings = EncodeSettings(weights=weights if variant != "toy" else "").model_dump(mode="json")
        arguments = {"variant": variant, "settings": settings, "fingerprint": "f", "device": "cpu"}
        rows = film_rows(found, video_of)
        whole = film_rows(found, video_of, clips_per_row=len(found))
        rounds = [
            {"loop": measure(BareLoop, whole, arguments), "stage": measure(MeteredStage, rows, arguments)}
            for _ in range(options.rounds)
        ]
    best = {who: {key: min(one[who][key] for one in rounds) for key in ("wall", "cpu")} for who in ("loop", "stage")}
    result = {
        "size": options.size,
        "bucket": bucket.folder,
        "clips": options.clips,
        "rounds": rounds,
        "ratio_cpu": round(best["loop"]["cpu"] / best["stage"]["cpu"], 3),
        "ratio_wall": round(best["loop"]["wall"] / best["stage"]["wall"], 3),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
