"""Denoiser against diffusers 0.42: identical weights and inputs, interleaved, with the floor and the peak memory.

    python -m tests.benchmarks.bench_denoiser [--variant cogvideox-2b] [--size 13x60x90] [--layers 2] [--device cuda]

Layers repeat, so a few of them show the ratio; `--layers 0` takes all. Sizes are latent frames, rows, columns. The
floor is the counted FLOPs over the rate of the largest matrix product of the layer, measured in the same run.
Times are the least of the rounds; on a shared CPU `--clock cpu` (with one thread) leaves the neighbours out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from cogvideox.denoiser import DenoiserConfig
from cogvideox.variants import VARIANTS
from cogvideox.weights import save_denoiser
from tests.benchmarks.peak import peak_bytes
from tests.support.denoisers import ask_diffusers, diffusers_twin, question, random_denoiser, relative_error

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Prints one JSON document with a row per type and direction."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(_peak(options, side=options.peak))
        return
    rows = []
    for dtype in options.dtypes.split(","):
        for direction in options.directions.split(","):
            row = _measure(options, dtype=dtype, direction=direction)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    print(json.dumps({"variant": options.variant, "size": options.size, "layers": options.layers, "rows": rows}))


def _measure(options: argparse.Namespace, *, dtype: str, direction: str) -> dict[str, object]:
    config = _config(options)
    ours, theirs = _calls(options, config, dtype=dtype)
    with torch.no_grad():
        error = relative_error(ours().float(), theirs().float())
    backward = direction == "train"
    seconds: dict[str, list[float]] = {"ours": [], "diffusers": []}
    for _ in range(options.rounds):
        for name, call in (("ours", ours), ("diffusers", theirs)):
            seconds[name].append(_time(call, backward=backward, options=options))
    best = {name: min(values) for name, values in seconds.items()}
    flops = _flops(config, options) * (3 if backward else 1)
    rate = _matrix_rate(config, _DTYPES[dtype], options)
    row: dict[str, object] = {
        "dtype": dtype,
        "direction": direction,
        "error": error,
        "ours_seconds": round(best["ours"], 4),
        "diffusers_seconds": round(best["diffusers"], 4),
        "ratio": round(best["diffusers"] / best["ours"], 3),
        "floor_seconds": round(flops / rate, 4),
        "matrix_gflops": round(rate / 1e9, 1),
    }
    if options.memory:
        peaks = {side: _peak_apart(options, side=side, dtype=dtype, direction=direction) for side in best}
        row |= {f"{side}_peak_mib": peak for side, peak in peaks.items()}
    return row


def _config(options: argparse.Namespace) -> DenoiserConfig:
    config = VARIANTS[options.variant].denoiser
    frames, height, width = _size(options)
    if config.positions == "rope+learned":
        config = replace(config, sample_frames=frames, sample_height=height, sample_width=width)
    # diffusers interpolates rotary positions of 1.0 models beside the native size: the same work, other angles.
    mode: Literal["interpolate", "extrapolate"] = "interpolate" if config.patch_frames == 1 else "extrapolate"
    return replace(config, num_layers=options.layers or config.num_layers, rope_mode=mode)


def _calls(
    options: argparse.Namespace, config: DenoiserConfig, *, dtype: str, side: str = ""
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    frames, height, width = _size(options)
    ours: Any = random_denoiser(config)
    theirs: Any = None
    if side != "ours":
        with tempfile.TemporaryDirectory() as folder:
            theirs = diffusers_twin(save_denoiser(ours, Path(folder) / "transformer"))
        theirs = theirs.to(options.device, _DTYPES[dtype])
    ours = None if side == "diffusers" else ours.to(options.device, _DTYPES[dtype])
    latent, timestep, text = question(config, frames=frames, height=height, width=width, batch=options.batch)
    latent, text = (x.to(options.device, _DTYPES[dtype]) for x in (latent, text))
    timestep = timestep.to(options.device)
    return (
        lambda: ours(latent, timestep=timestep, text_embedding=text),
        lambda: ask_diffusers(theirs, config, latent, timestep, text),
    )


def _time(call: Callable[[], torch.Tensor], *, backward: bool, options: argparse.Namespace) -> float:
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    _wait(options)
    start = clock()
    _run(call, backward=backward)
    _wait(options)
    return clock() - start


def _run(call: Callable[[], torch.Tensor], *, backward: bool) -> None:
    if backward:
        torch.autograd.backward(call().float().square().mean())
        return
    with torch.no_grad():
        call()


def _wait(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def _flops(config: DenoiserConfig, options: argparse.Namespace) -> float:
    frames, height, width = _size(options)
    video = -(-frames // config.patch_frames) * (height // 2) * (width // 2)
    tokens = video + config.max_text_tokens
    linear = 2 * 12 * config.width**2 * tokens  # query, key, value, out, and four times the width up and down
    attention = 4 * tokens**2 * config.width
    return float(options.batch * config.num_layers * (linear + attention))


def _matrix_rate(config: DenoiserConfig, dtype: torch.dtype, options: argparse.Namespace) -> float:
    """FLOP/s of the feed-forward's first product; the better of the type itself and float32."""
    rates = []
    for kind in {dtype, torch.float32} if options.device == "cpu" else {dtype}:
        tokens = torch.randn(1024, config.width, device=options.device, dtype=kind)
        weight = torch.randn(4 * config.width, config.width, device=options.device, dtype=kind)
        product = partial(torch.nn.functional.linear, tokens, weight)
        seconds = [_time(product, backward=False, options=options) for _ in range(6)]
        rates.append(2 * tokens.shape[0] * weight.numel() / min(seconds))
    return max(rates)


def _peak_apart(options: argparse.Namespace, *, side: str, dtype: str, direction: str) -> int:
    """Peak memory of one side, in a process of its own."""
    words = [sys.executable, "-m", "tests.benchmarks.bench_denoiser", "--peak", side]
    for name in ("variant", "size", "layers", "batch", "device", "threads"):
        words += [f"--{name}", str(getattr(options, name))]
    words += ["--dtypes", dtype, "--directions", direction]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[-1])


def _peak(options: argparse.Namespace, *, side: str) -> int:
    """MiB that one call needs beyond weights and inputs."""
    ours, theirs = _calls(options, _config(options), dtype=options.dtypes, side=side)
    call = ours if side == "ours" else theirs
    run = partial(_run, call, backward=options.directions == "train")
    return peak_bytes(run, device=options.device) >> 20


def _size(options: argparse.Namespace) -> tuple[int, int, int]:
    frames, height, width = (int(word) for word in options.size.split("x"))
    return frames, height, width


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="cogvideox-2b", choices=list(VARIANTS))
    parser.add_argument("--size", default="5x32x48", help="latent frames x rows x columns")
    parser.add_argument("--layers", type=int, default=2, help="0: all of the variant's")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--directions", default="forward,train")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", default="wall", choices=["wall", "cpu"])
    parser.add_argument("--memory", action="store_true", help="also measure peaks, each side in its own process")
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
