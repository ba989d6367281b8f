"""Bytes that each worker really sends in a step, engine by engine, beside what `train plan` counts.

python -m tests.benchmarks.bench_sent_bytes [--workers 2]
A toy denoiser trains on so many processes over gloo; the kernel's own count of every TCP connection, payload alone, is
read before and after some steps. Prints one JSON document: kilobytes that a worker sends in a step, mean over workers.
The plan counts rings, as NCCL has them. gloo scatters a sum by making the whole one first, which is twice as much; the
planned figures beside the counted ones allow for that.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.profiler import ProfilerActivity, profile

from cogvideox.denoiser import Denoiser, PackedBatch
from cogvideox.variants import VARIANTS
from training import costs
from training.parallelize import parallelize
from training.recipe import EngineSettings, OptimizerSettings

CONFIG = replace(VARIANTS["toy"].denoiser, num_heads=4)  # so that two workers may share a row
CASES: list[dict[str, Any]] = [
    *({"kind": kind} for kind in ("ddp", "zero-1", "zero-2", "zero-3", "fsdp")),
    {"kind": "fsdp", "precision": "bfloat16"},
    {"kind": "fsdp", "replicas": 2},
    {"kind": "ddp", "sequence_parallel": 2},
    {"kind": "ddp", "sequence_parallel": 2, "activation_checkpointing": "full"},
    {"kind": "ddp", "sequence_parallel": 2, "precision": "bfloat16"},
]
WARM_UP, STEPS = 2, 3
_BYTES_ACKED = 120  # of struct tcp_info, linux/tcp.h


def sent_bytes() -> int:
    """Payload that this process has sent over TCP connections that are open, as far as it has arrived."""
    total = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            if not os.readlink(link).startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(link.name))) as connection:
                if connection.family in (socket.AF_INET, socket.AF_INET6) and connection.type == socket.SOCK_STREAM:
                    facts = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("Q", facts, _BYTES_ACKED)[0]
        except OSError:
            continue
    return total


def packs() -> Iterator[PackedBatch]:
    """One small row after another, of always the same size."""
    generator = torch.Generator().manual_seed(0)
    texts = (torch.randn(CONFIG.max_text_tokens, CONFIG.text_width, generator=generator),)
    while True:
        yield PackedBatch((torch.randn(16, 5, 12, 18, generator=generator),), torch.tensor([500]), texts)


def work(rank: int, world: int, folder: str, case: dict[str, Any], turns: int) -> None:
    """One worker: writes what it sent in a step, and in what operations."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    engine = parallelize(
        Denoiser(CONFIG).initialize(seed=0), engine=EngineSettings(**case), optimizer=OptimizerSettings()
    )
    rows, before = packs(), 0
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                dist.barrier()
                before = sent_bytes()
                seen.step()
            for turn in range(turns):
                engine.backward(engine(next(rows)).square().mean(), last=turn == turns - 1)
            engine.update(1e-4, gradient_clip=1.0)
    dist.barrier()
    sent = (sent_bytes() - before) / STEPS
    Path(folder, f"{rank}.json").write_text(json.dumps({"sent": sent, "calls": calls(seen)}))
    dist.destroy_process_group()


def calls(seen: Any) -> dict[str, int]:
    """How often each collective ran in all steps."""
    found = {event.key: event.count for event in seen.key_averages() if event.key.startswith("c10d::")}
    return dict(sorted(found.items()))


def measure(case: dict[str, Any], *, world: int, turns: int) -> dict[str, Any]:
    """What was sent, and what the plan says, in kilobytes."""
    with TemporaryDirectory() as folder:
        mp.spawn(work, args=(world, folder, case, turns), nprocs=world)  # type: ignore[attr-defined, no-untyped-call]
        told = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]
    engine, row = EngineSettings(**case), next(packs())
    tokens, trained = row.layout(CONFIG).num_tokens, costs.parameter_counts(CONFIG)[0]
    planned = costs.bytes_sent(CONFIG, engine, workers=world, turns=turns, trained=trained, tokens=tokens)
    by_gloo = planned
    if engine.kind in ("zero-3", "fsdp"):
        group = world // engine.replicas
        by_gloo += turns * 4 * trained * (group - 1) / group
    sent = sum(one["sent"] for one in told) / world
    return {
        "engine": " ".join(str(value) for value in case.values()),
        "packs_of_a_worker": turns,
        "sent_kilobytes": round(sent / 1e3, 1),
        "planned_kilobytes": round(planned / 1e3, 1),
        "planned_over_gloo_kilobytes": round(by_gloo / 1e3, 1),
        "sent_by_planned_over_gloo": round(sent / by_gloo, 4),
        "calls": told[0]["calls"],
    }


def main() -> None:
    """Measure every case with one and with two packs of a worker."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    world = parser.parse_args().workers
    rows = []
    for case in CASES:
        for turns in (1, 2):
            rows.append(measure(case, world=world, turns=turns))
            print({name: value for name, value in rows[-1].items() if name != "calls"}, file=sys.stderr)
    megabytes = 4 * costs.parameter_counts(CONFIG)[0] / 1e6
    print(json.dumps({"workers": world, "parameters_megabytes": round(megabytes, 3), "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
