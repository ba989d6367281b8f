"""Times and weighs the autoencoder against diffusers with the same weights and inputs, interleaved, with the floor.

python -m tests.benchmarks.bench_autoencoder --size toy --dtypes float32 bfloat16
python -m tests.benchmarks.bench_autoencoder --size published --frames 49 --height 480 --width 720 --device cuda
Prints one JSON document; ratios above 1 mean that ours is faster or smaller. Peaks come from fresh processes, one per
side. The floor is the network's multiplications as the layers state them over the measured matrix rate: a way with
fewer products (Winograd, kernels folded through the enlargement) can lie below it. `--tile` is the tile of `tiled`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from diffusers import AutoencoderKLCogVideoX
from torch.utils.flop_counter import FlopCounterMode

from cogvideox.autoencoder import Autoencoder, AutoencoderConfig, Tiling
from cogvideox.weights.autoencoder_keys import config_to_diffusers, from_diffusers_key
from tests.benchmarks.peak import peak_bytes

SIZES = {
    "toy": AutoencoderConfig(block_widths=(16, 32, 64, 64), layers_per_block=1, norm_groups=8),
    "published": AutoencoderConfig(),
}
Call = Callable[[], object]


def pair(config: AutoencoderConfig, *, device: str, dtype: torch.dtype) -> tuple[Autoencoder, AutoencoderKLCogVideoX]:
    """Both networks with the same random weights."""
    torch.manual_seed(0)
    settings = config_to_diffusers(config, scale_factor=1.0, sample_height=480, sample_width=720)
    theirs = AutoencoderKLCogVideoX(**{key: value for key, value in settings.items() if key[0] != "_"}).eval()
    ours = Autoencoder(config).eval()
    ours.load_state_dict({from_diffusers_key(key): value for key, value in theirs.state_dict().items()})
    return ours.to(device, dtype), theirs.to(device, dtype)


def calls(args: argparse.Namespace, *, dtype: torch.dtype, operation: str) -> dict[str, Call]:
    """The operation on either side."""
    ours, theirs = pair(SIZES[args.size], device=args.device, dtype=dtype)
    pixels = torch.rand(1, 3, args.frames, args.height, args.width, device=args.device).to(dtype) * 2 - 1
    latent = torch.randn(1, 16, (args.frames - 1) // 4 + 1, args.height // 8, args.width // 8, device=args.device)
    latent = latent.to(dtype)
    if operation == "encode":
        return {"ours": partial(ours.encode, pixels), "diffusers": partial(theirs.encode, pixels)}
    if operation == "decode":
        return {"ours": partial(ours.decode, latent), "diffusers": partial(theirs.decode, latent)}
    height, width = (int(word) for word in args.tile.split("x"))
    theirs.enable_tiling(height, width)  # its own tiles in time and its own overlap
    return {
        "ours": partial(ours.decode, latent, tiling=Tiling(height=height, width=width)),
        "diffusers": partial(theirs.decode, latent),
    }


def seconds(call: Call, *, device: str) -> float:
    """Processor seconds on a CPU (deaf to other loads), wall seconds on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    began = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def matrix_rate(dtype: torch.dtype, *, device: str) -> float:
    """FLOP/s of a large matrix product; on a CPU the better of the type and float32."""
    rates = []
    for kind in {dtype, torch.float32} if device == "cpu" else {dtype}:
        matrix = torch.randn(2048, 2048, device=device, dtype=kind)
        times = [seconds(partial(torch.matmul, matrix, matrix), device=device) for _ in range(6)]
        rates.append(2 * 2048**3 / min(times))
    return max(rates)


@torch.inference_mode()
def measure(args: argparse.Namespace, *, dtype_name: str, operation: str) -> dict[str, float]:
    """Fastest time and peak memory of both sides, taking turns, and their ratios."""
    dtype = getattr(torch, dtype_name)
    both = calls(args, dtype=dtype, operation=operation)
    with FlopCounterMode(display=False) as counter:
        both["diffusers"]()  # also its warm-up
    both["ours"]()
    times: dict[str, list[float]] = {side: [] for side in both}
    for _ in range(args.rounds):
        for side, call in both.items():
            times[side].append(seconds(call, device=args.device))
    best = {side: min(values) for side, values in times.items()}
    row = {f"{side}_seconds": round(value, 3) for side, value in best.items()}
    row |= {"seconds_ratio": round(best["diffusers"] / best["ours"], 3)}
    row["floor_seconds"] = round(counter.get_total_flops() / matrix_rate(dtype, device=args.device), 3)
    peaks = {side: peak_apart(args, dtype_name=dtype_name, operation=operation, side=side) for side in both}
    row |= {f"{side}_peak_mib": round(value / 2**20) for side, value in peaks.items()}
    return row | {"peak_ratio": round(peaks["diffusers"] / max(peaks["ours"], 1), 3)}


def peak_apart(args: argparse.Namespace, *, dtype_name: str, operation: str, side: str) -> int:
    """Peak bytes of one side in a process of its own."""
    words = [sys.executable, "-m", "tests.benchmarks.bench_autoencoder", "--peak", side]
    for name in ("size", "device", "frames", "height", "width", "threads", "tile"):
        words += [f"--{name}", str(getattr(args, name))]
    words += ["--dtypes", dtype_name, "--operations", operation]
    return int(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


@torch.inference_mode()
def print_peak(args: argparse.Namespace) -> None:
    """What `peak_apart` reads."""
    both = calls(args, dtype=getattr(torch, args.dtypes[0]), operation=args.operations[0])
    call = both.pop(args.peak)
    both.clear()
    print(peak_bytes(call, device=args.device))


def main() -> None:
    """Reads the command line and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="toy")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--operations", nargs="+", default=["encode", "decode", "tiled"])
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--tile", default="48x72", help="rows x columns of a tile, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak:
        print_peak(args)
        return
    results = {
        f"{dtype} {operation}": measure(args, dtype_name=dtype, operation=operation)
        for dtype in args.dtypes
        for operation in args.operations
    }
    print(json.dumps({"settings": vars(args), "torch": torch.__version__, "results": results}, indent=2))


if __name__ == "__main__":
    main()
