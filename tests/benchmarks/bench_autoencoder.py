"""Times and weighs the autoencoder against diffusers with the same weights and inputs, interleaved, in one process.

python tests/benchmarks/bench_autoencoder.py --size toy --dtypes float32 bfloat16
python tests/benchmarks/bench_autoencoder.py --size published --frames 49 --height 480 --width 720 --device cuda
Prints one JSON document; ratios above 1 mean that ours is faster or smaller.
"""

import argparse
import json
import threading
import time
from collections.abc import Callable

import torch
from diffusers import AutoencoderKLCogVideoX

from cogvideox.autoencoder import Autoencoder, AutoencoderConfig, Tiling
from cogvideox.weights.autoencoder_keys import config_to_diffusers, from_diffusers_key

SIZES = {
    "toy": AutoencoderConfig(block_widths=(16, 32, 64, 64), layers_per_block=1, norm_groups=8),
    "published": AutoencoderConfig(),
}


def pair(config: AutoencoderConfig, *, device: str, dtype: torch.dtype) -> tuple[Autoencoder, AutoencoderKLCogVideoX]:
    """Both networks with the same random weights; diffusers' tiles at its default size for 480 x 720."""
    torch.manual_seed(0)
    settings = config_to_diffusers(config, scale_factor=1.0, sample_height=480, sample_width=720)
    theirs = AutoencoderKLCogVideoX(**{key: value for key, value in settings.items() if key[0] != "_"}).eval()
    ours = Autoencoder(config).eval()
    ours.load_state_dict({from_diffusers_key(key): value for key, value in theirs.state_dict().items()})
    return ours.to(device, dtype), theirs.to(device, dtype)


def resident_bytes() -> int:
    """Bytes of this process in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def peak_bytes(call: Callable[[], object], *, device: str) -> int:
    """The most memory the call held above what was held before it (sampled every 2 ms on a CPU)."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident_bytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    done.set()
    watcher.join()
    return peak


def seconds(call: Callable[[], object], *, device: str) -> float:
    """Processor seconds on a CPU (deaf to other loads), wall seconds on a GPU."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    began = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def compare(calls: dict[str, Callable[[], object]], *, device: str, rounds: int) -> dict[str, dict[str, float]]:
    """Fastest time and peak memory of each call, taking turns."""
    peaks = {name: peak_bytes(call, device=device) for name, call in calls.items()}  # also the warm-up
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call, device=device))
    return {name: {"seconds": min(times[name]), "peak_mib": peaks[name] / 2**20} for name in calls}


@torch.inference_mode()
def bench(args: argparse.Namespace, *, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Encode, decode and tiled decode; per operation both results and the ratios."""
    ours, theirs = pair(SIZES[args.size], device=args.device, dtype=dtype)
    pixels = torch.rand(1, 3, args.frames, args.height, args.width, device=args.device).to(dtype) * 2 - 1
    latent = torch.randn(1, 16, (args.frames - 1) // 4 + 1, args.height // 8, args.width // 8, device=args.device).to(
        dtype
    )
    rows: dict[str, dict[str, float]] = {}

    def add(operation: str, mine: Callable[[], object], peer: Callable[[], object]) -> None:
        result = compare({"ours": mine, "diffusers": peer}, device=args.device, rounds=args.rounds)
        ratios = {f"{key}_ratio": result["diffusers"][key] / max(result["ours"][key], 1e-9) for key in result["ours"]}
        flat = {f"{name}_{key}": value for name, values in result.items() for key, value in values.items()}
        rows[operation] = {name: round(value, 3) for name, value in {**flat, **ratios}.items()}

    if "encode" in args.operations:
        add("encode", lambda: ours.encode(pixels), lambda: theirs.encode(pixels))
    if "decode" in args.operations:
        add("decode", lambda: ours.decode(latent), lambda: theirs.decode(latent))
    if "tiled" in args.operations:
        theirs.enable_tiling()
        add("tiled", lambda: ours.decode(latent, tiling=Tiling()), lambda: theirs.decode(latent))
    return rows


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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {name: bench(args, dtype=getattr(torch, name)) for name in args.dtypes}
    print(json.dumps({"settings": vars(args), "torch": torch.__version__, "results": results}, indent=2))


if __name__ == "__main__":
    main()
