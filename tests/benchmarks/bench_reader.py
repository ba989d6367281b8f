"""Reads encoded clips from the page cache: ours, one row group after the other with pyarrow, and the bytes themselves.

    python -m tests.benchmarks.bench_reader --megabytes 512

The floor is a plain read of the same files in the same run. `rewritten`: share of the bytes that are written again when
clips come, by our shards and by shards cut at every so many clips in the order of ids.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from data_pipeline.shards import parts
from groundwork.latents import open_dataset
from groundwork.records import Latent
from groundwork.shard import write_shard
from groundwork.storage import Storage, open_storage

SIZES = {"toy": ((16, 5, 12, 18), (32, 256)), "cogvideox-5b": ((16, 13, 60, 90), (226, 4096))}
SHARD_BYTES = 256 << 20


def rows(count: int, latent_shape: tuple[int, ...], text_shape: tuple[int, ...]) -> Iterator[Latent]:
    """Clips of random bytes."""
    chance = np.random.default_rng(0)
    for number in range(count):
        latent, text = (chance.bytes(2 * int(np.prod(size))) for size in (latent_shape, text_shape))
        caption = "a caption of about the length that captioners write " * 8
        yield Latent(f"{number:024x}", latent, list(latent_shape), text, list(text_shape), tokens=1, caption=caption)


def measured(read: Callable[[], int]) -> dict[str, float]:
    """GB per second of the clock and of the processor, the best of three."""
    found = []
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        amount = read()
        found.append((time.perf_counter() - wall, time.process_time() - cpu, amount))
    return {
        "gb_per_second": round(max(amount / wall for wall, _, amount in found) / 1e9, 3),
        "gb_per_cpu_second": round(max(amount / cpu for _, cpu, amount in found) / 1e9, 3),
    }


def plain(out: Storage) -> int:
    """The same files, byte after byte."""
    buffer, total = bytearray(4 << 20), 0
    for path in out.list("latents"):
        with Path(out.path(path)).open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def by_row_group(out: Storage) -> int:
    """What a plain Parquet reader does: each shard opened once, one row group per clip."""
    total = 0
    for path in out.list("latents"):
        with pq.ParquetFile(out.path(path)) as file:
            for group in range(file.num_row_groups):
                (row,) = file.read_row_group(group, columns=["latent", "text_embedding"]).to_pylist()
                total += len(row["latent"]) + len(row["text_embedding"])
    return total


def bench(name: str, megabytes: int, folder: Path) -> dict[str, Any]:
    """One size of clips."""
    latent_shape, text_shape = SIZES[name]
    clip_bytes = 2 * int(np.prod(latent_shape) + np.prod(text_shape))
    count = max(8, megabytes * 1_000_000 // clip_bytes)
    out = open_storage(folder / name)
    per_shard = max(1, SHARD_BYTES // clip_bytes)
    every = rows(count, latent_shape, text_shape)
    for number, first in enumerate(range(0, count, per_shard)):
        chosen = (next(every) for _ in range(min(per_shard, count - first)))
        write_shard(out, f"latents/{name}/part-{number}.parquet", chosen, Latent)
    opened = time.process_time()
    dataset = open_dataset(out)
    opened = time.process_time() - opened
    stored = sum(out.size(path) for path in out.list())
    result: dict[str, Any] = {
        "clips": count,
        "clip_bytes": clip_bytes,
        "bytes_beside_the_values": round(stored / (count * clip_bytes) - 1, 5),
        "open_cpu_microseconds_per_clip": round(1e6 * opened / count, 1),
        "floor": measured(lambda: plain(out)),
        "pyarrow": measured(lambda: by_row_group(out)),
        "read": measured(lambda: sum(dataset.read(number).num_bytes for number in range(len(dataset)))),
    }
    for threads in (1, 2, 4):
        read = lambda threads=threads: sum(clip.num_bytes for clip in dataset.iterate(threads=threads))  # noqa: E731
        result[f"shuffled, {threads} threads"] = measured(read)
    best = max(value["gb_per_cpu_second"] for key, value in result.items() if key.startswith(("read", "shuffled")))
    result["ratio_to_pyarrow"] = round(best / result["pyarrow"]["gb_per_cpu_second"], 2)
    result["ratio_to_floor"] = round(best / result["floor"]["gb_per_cpu_second"], 2)
    return result


def rewritten(count: int = 20_000, per_shard: int = 64) -> dict[str, dict[str, float]]:
    """Share of all clips that lie in files written again, when some are added at random."""

    def by_place(ids: list[str]) -> set[tuple[str, ...]]:
        ordered = sorted(ids)
        return {tuple(ordered[first : first + per_shard]) for first in range(0, len(ordered), per_shard)}

    def by_hash(ids: list[str]) -> set[tuple[str, ...]]:
        return {tuple(part) for _, part in parts({one: one for one in ids}, per_shard)}

    chance = np.random.default_rng(0)
    before, new = ([chance.bytes(12).hex() for _ in range(size)] for size in (count, count // 10))
    found: dict[str, dict[str, float]] = {}
    for label, more in {"1 clip": new[:1], "0.1 %": new[: count // 1000], "1 %": new[: count // 100]}.items():
        found[label] = {
            name: round(sum(map(len, cut(before + more) - cut(before))) / count, 4)
            for name, cut in (("ours", by_hash), ("by place", by_place))
        }
    return found


def main() -> None:
    """One JSON document on standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cvx-bench-") as folder:
        result = {name: bench(name, options.megabytes, Path(folder)) for name in SIZES}
    json.dump({**result, "rewritten": rewritten()}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
