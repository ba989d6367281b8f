"""Training steps of the published shapes on one GPU, beside diffusers' transformer with gradient checkpointing.

    python -m tests.benchmarks.bench_training_gpu micro
    python -m tests.benchmarks.bench_training_gpu 2b --modes none,compile,attention
    python -m tests.benchmarks.bench_training_gpu 5b --modes full,2,attention
    python -m tests.benchmarks.bench_training_gpu 1.5-5b --modes full --rounds 3
    python -m tests.benchmarks.bench_training_gpu packs --budget 17776
    python -m tests.benchmarks.bench_training_gpu ladder --variant 5b

Each call fits in ten minutes and prints one JSON line per row. Random weights, random latents and texts, bf16 products
over float32 weights, AdamW fused, clipping at 1. Needs torch, diffusers and what `training` itself imports; neither Ray
nor DeepSpeed. `--device cpu --layers 1 --size 3x8x12` shows here that it runs. One GPU says nothing of communication.

micro: matrix products and attention at the published lengths, against which a row's TFLOP/s are held. packs: the same
mixed clips as our packs, one after the other by diffusers, and by diffusers in batches of one size. ladder: the most
frames before memory ends, by mode.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import CogVideoXTransformer3DModel

from cogvideox.denoiser import Denoiser, DenoiserConfig
from cogvideox.denoiser.flops import forward_flops
from cogvideox.variants import VARIANTS
from cogvideox.weights.denoiser_keys import config_to_diffusers
from tests.benchmarks.training_sides import Clips, Side, Size, clips_of, num_tokens, our_side, their_side
from training.compute import apply_compile, apply_float8
from training.recompute import apply_recompute

SHAPES: dict[str, tuple[str, Size]] = {
    "2b": ("cogvideox-2b", (13, 60, 90)),
    "5b": ("cogvideox-5b", (13, 60, 90)),
    "1.5-5b": ("cogvideox1.5-5b", (22, 96, 170)),
}
"""Variant, and latent frames, rows, columns: 49x480x720 and 81x768x1360 pixels."""
MIXTURE: list[Size] = [(1, 60, 90), (3, 60, 90), (5, 60, 90), (9, 40, 60), (13, 32, 48), (13, 40, 60), (7, 60, 90)]
"""Clips of several lengths and sizes, images among them."""


def main() -> None:
    """One JSON line per row."""
    options = _options()
    torch.manual_seed(0)
    rows: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]]
    rows = {"micro": micro, "packs": packs, "ladder": ladder}
    for row in rows.get(options.what, steps)(options):
        print(json.dumps(row), flush=True)


def steps(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One clip of the published shape: diffusers, then ours in each mode."""
    variant, native = SHAPES[options.what]
    config, size = _config(variant, options), options.size or native
    clips = clips_of(config, [size], device=options.device)
    flops = 3 * forward_flops(config, [num_tokens(config, size)])
    base: dict[str, Any] = {}
    for mode in ["diffusers", *options.modes.split(",")]:
        row = _measured(options, clips, flops, make=partial(_side, config, mode, options))
        base = base or row
        ratio = round(base["seconds"] / row["seconds"], 3) if "seconds" in row and "seconds" in base else None
        yield {"what": options.what, "size": size, "mode": mode, "ratio": ratio, **row}


def packs(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The same clips three ways; tokens per second, and how many clips fill a pack of the budget."""
    config = _config(SHAPES[options.variant][0], options)
    sizes = _drawn(config, options)
    if not sizes:
        raise SystemExit(f"--budget {options.budget}: no clip of the mixture is so short")
    clips, lengths = clips_of(config, sizes, device=options.device), [num_tokens(config, size) for size in sizes]
    flops = 3 * forward_flops(config, lengths)
    by_size = [[clip for clip, own in zip(clips, sizes, strict=True) if own == size] for size in sorted(set(sizes))]
    ways = {
        "ours, packed": ([clips], options.modes.split(",")[0]),
        "diffusers, one by one": ([[clip] for clip in clips], "diffusers"),
        "diffusers, same sizes": (by_size, "diffusers"),
    }
    for name, (groups, mode) in ways.items():
        row = _measured(options, groups[0], flops, make=partial(_side, config, mode, options), groups=groups)
        if "seconds" in row:
            row["tokens_per_second"] = round(sum(lengths) / row["seconds"])
        yield {"what": "packs", "way": name, "clips": len(clips), "tokens": sum(lengths), **row}


def ladder(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Latent frames that still fit, by mode, doubling."""
    variant, (_, height, width) = SHAPES[options.variant]
    config = _config(variant, options)
    if options.size:
        _, height, width = options.size
    for mode in ["diffusers", *options.modes.split(",")]:
        most, peak, frames = 0, 0.0, 4
        while frames <= options.most_frames:
            clips = clips_of(config, [(frames, height, width)], device=options.device)
            row = _measured(options, clips, 1.0, make=partial(_side, config, mode, options), rounds=1)
            if "seconds" not in row:
                break
            most, peak, frames = frames, row["peak_gib"], frames * 2
        yield {"what": "ladder", "mode": mode, "latent_frames": most, "peak_gib": peak}


def micro(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """TFLOP/s of products and of attention, forward and backward."""
    small = options.device == "cpu"
    products = [(8192, 8192, 8192), (17776, 3072, 12288)] if not small else [(512, 512, 512)]
    for rows, inner, columns in products:
        left, right = (
            torch.randn(*s, device=options.device, dtype=torch.bfloat16) for s in ((rows, inner), (inner, columns))
        )
        seconds = _best(partial(torch.matmul, left, right), options)
        yield {"what": "product", "size": (rows, inner, columns), "tflops": 2e-12 * rows * inner * columns / seconds}
    for length in (17776, 45104) if not small else (512,):
        shape = (1, 48, length, 64)
        query, key, value = (
            torch.randn(shape, device=options.device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)
        )
        flops = 4e-12 * 48 * length**2 * 64
        forward = _best(partial(F.scaled_dot_product_attention, query, key, value), options)
        both = _best(partial(_attended, query, key, value), options)
        yield {"what": "attention", "length": length, "forward": flops / forward, "both": 3.5 * flops / both}


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
    torch.autograd.backward(F.scaled_dot_product_attention(query, key, value).sum())


def _side(config: DenoiserConfig, mode: str, options: argparse.Namespace) -> Side:
    """diffusers' model with gradient checkpointing, or ours with a mode of recomputation, compiled or in float8."""
    with torch.device(options.device):
        if mode == "diffusers":
            theirs = CogVideoXTransformer3DModel.from_config(config_to_diffusers(config))
            theirs.enable_gradient_checkpointing()
            return their_side(theirs, config, batched=True)
        denoiser = Denoiser(config)
    for word in mode.split("+"):
        if word == "compile":
            apply_compile(denoiser)
        elif word == "float8":
            apply_float8(denoiser)
        elif word in ("attention", "linear"):
            apply_recompute(denoiser, ("attention",) if word == "attention" else ("attention", "linear"))
        else:
            apply_recompute(denoiser, int(word) if word.isdigit() else word)  # type: ignore[arg-type]
    return our_side(denoiser)


def _measured(
    options: argparse.Namespace,
    clips: Clips,
    flops: float,
    *,
    make: Callable[[], Side],
    groups: Sequence[Clips] = (),
    rounds: int = 0,
) -> dict[str, Any]:
    """Seconds of a step over all groups, TFLOP/s and peak memory; or that memory ended."""
    _emptied(options)
    try:
        side = make()
        seconds = _best(lambda: side.step(*(groups or [clips]), bf16=True), options, rounds=rounds)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        side = None  # type: ignore[assignment]
    peak = torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else 0.0
    return {"seconds": round(seconds, 4), "tflops": round(flops / seconds / 1e12, 2), "peak_gib": round(peak, 2)}


def _best(call: Callable[[], Any], options: argparse.Namespace, *, rounds: int = 0) -> float:
    """Least seconds of the rounds, after two to warm up; compiling falls into these."""
    found = []
    for turn in range(2 + (rounds or options.rounds)):
        _wait(options)
        began = time.perf_counter()
        call()
        _wait(options)
        if turn >= 2:
            found.append(time.perf_counter() - began)
    return min(found)


def _wait(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def _emptied(options: argparse.Namespace) -> None:
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _config(variant: str, options: argparse.Namespace) -> DenoiserConfig:
    config = VARIANTS[variant].denoiser
    return replace(config, num_layers=options.layers or config.num_layers)


def _drawn(config: DenoiserConfig, options: argparse.Namespace) -> list[Size]:
    """Clips of the mixture, at random, as many as the budget holds."""
    chance, sizes, left = random.Random(0), list[Size](), options.budget
    while left >= min(num_tokens(config, size) for size in MIXTURE):
        size = chance.choice([size for size in MIXTURE if num_tokens(config, size) <= left])
        sizes.append(size)
        left -= num_tokens(config, size)
    return sizes


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*SHAPES, "micro", "packs", "ladder"])
    parser.add_argument("--modes", default="full", help="none, full, 2, attention, linear, compile, float8; join by +")
    parser.add_argument("--variant", default="5b", choices=list(SHAPES), help="of packs and ladder")
    parser.add_argument("--budget", type=int, default=17776, help="tokens of a pack")
    parser.add_argument("--layers", type=int, default=0, help="0: all of the variant's")
    parser.add_argument("--size", type=_size, default=None, help="latent frames x rows x columns")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--most-frames", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def _size(word: str) -> Size:
    frames, height, width = (int(part) for part in word.split("x"))
    return frames, height, width


if __name__ == "__main__":
    main()
