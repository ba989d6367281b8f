"""A training step against diffusers' transformer in a plain loop, and what our own loop adds to a step.

    python -m tests.benchmarks.bench_training [--dtypes fp32,bf16] [--rounds 5] [--shapes A,B,C]

14.5 million parameters; one step is noise, forward, loss, backward, gradient clipping and AdamW. A and B are clips of
one size; C is five clips of five sizes: one row for us, one after the other for diffusers, whose layers take one size
at a time. Both start with the same weights, and their first losses and gradients are compared before anything is timed.
Times are processor seconds of one thread, the least of interleaved rounds. The floor is the counted FLOPs over the rate
of the layer's largest matrix product. `overhead`: a step of a whole run (reading, order, noise, engine, average,
metrics) over the bare step of the same row.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as dist

from cogvideox.denoiser import DenoiserConfig
from cogvideox.denoiser.flops import forward_flops
from tests.benchmarks.bench_training_run import run_seconds
from tests.benchmarks.training_sides import (
    Side,
    Size,
    clips_of,
    gradient_cosine,
    num_tokens,
    our_side,
    their_side,
    twin_of,
)
from tests.support.denoisers import random_denoiser

TINY = DenoiserConfig(
    num_layers=6, num_heads=6, text_width=256, max_text_tokens=64, time_width=512, rope_mode="interpolate"
)
SIZES: dict[str, list[Size]] = {
    "A": [(5, 16, 24)] * 2,
    "B": [(9, 30, 44)],
    "C": [(1, 16, 24), (5, 16, 24), (3, 16, 24), (4, 16, 16), (13, 16, 24)],
}


def sides(*, batched: bool) -> dict[str, Side]:
    """Ours and diffusers' model with the same weights."""
    network = random_denoiser(TINY)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.mul_(0.3)
    return {"ours": our_side(network), "diffusers": their_side(twin_of(network), TINY, batched=batched)}


def measure(shape: str, dtype: str, *, rounds: int) -> dict[str, Any]:
    """One shape and type, interleaved."""
    sizes, bf16 = SIZES[shape], dtype == "bf16"
    both, clips = sides(batched=len(set(sizes)) == 1), clips_of(TINY, sizes)
    losses = {name: side.gradients(clips, bf16=bf16, seed=1) for name, side in both.items()}
    cosine = gradient_cosine(*both.values())
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(rounds + 1):
        for name, side in both.items():
            began = time.process_time()
            side.step(clips, bf16=bf16)
            if turn:
                seconds[name].append(time.process_time() - began)
    best = {name: min(values) for name, values in seconds.items()}
    tokens = [num_tokens(TINY, size) for size in sizes]
    flops = 3 * forward_flops(TINY, tokens)
    return {
        "shape": shape,
        "dtype": dtype,
        "tokens": tokens,
        "losses": losses,
        "gradient_cosine": round(cosine, 6),
        "ours_cpu_seconds": round(best["ours"], 4),
        "diffusers_cpu_seconds": round(best["diffusers"], 4),
        "ratio": round(best["diffusers"] / best["ours"], 3),
        "floor_seconds": round(flops / matrix_rate(bf16=bf16), 4),
    }


def matrix_rate(*, bf16: bool) -> float:
    """FLOP/s of the feed-forward's first product; the better of float32 and, where asked for, bfloat16."""
    rates = []
    for dtype in (torch.float32, torch.bfloat16)[: 2 if bf16 else 1]:
        tokens, weight = (
            torch.randn(1024, TINY.width, dtype=dtype),
            torch.randn(4 * TINY.width, TINY.width, dtype=dtype),
        )
        for _ in range(6):
            began = time.process_time()
            torch.nn.functional.linear(tokens, weight)
            rates.append(2 * tokens.shape[0] * weight.numel() / (time.process_time() - began))
    return max(rates)


def main() -> None:
    """One JSON document on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--shapes", default="A,B,C")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype in options.dtypes.split(","):
        for shape in options.shapes.split(","):
            rows.append(measure(shape, dtype, rounds=options.rounds))
            print(json.dumps(rows[-1]), file=sys.stderr)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    loop = run_seconds(TINY, clips_of(TINY, SIZES["C"]), steps=4 * options.rounds)
    dist.destroy_process_group()
    json.dump({"rows": rows, "loop": loop}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
