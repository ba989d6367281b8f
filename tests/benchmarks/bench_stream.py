"""Decodes a long video as a stream: seconds, time to the first frames, and peak memory, which must not grow.

python -m tests.benchmarks.bench_stream --frames 161 --height 768 --width 1360 --tile 256x456
Random latents through the toy autoencoder's architecture (its shipped weights). Prints one JSON document; `cache_mib`
is what the stream carries from chunk to chunk, `peak_mib` the most memory held above model and latent.
"""

import argparse
import json
import time

import torch

from cogvideox.autoencoder import Autoencoder, Stream, Tiling
from cogvideox.weights import load_autoencoder, toy_autoencoder_folder
from tests.benchmarks.peak import peak_bytes


def cache_mib(autoencoder: Autoencoder, latent: torch.Tensor) -> float:
    """What one stream over frames of this size carries, after its first chunk."""
    stream = Stream()
    autoencoder.decode_chunk(latent[:, :, :1], stream)
    return sum(tail.numel() * tail.element_size() for tail in stream.tails.values()) / 2**20


@torch.inference_mode()
def bench(args: argparse.Namespace) -> dict[str, float]:
    """One pass; the frames are dropped as they come."""
    autoencoder = load_autoencoder(toy_autoencoder_folder()).to(getattr(torch, args.dtype)).eval()
    count = (args.frames - 1) // 4 + 1
    latent = torch.randn(1, 16, count, args.height // 8, args.width // 8).to(getattr(torch, args.dtype))
    tiling = None
    if args.tile:
        height, width = (int(word) for word in args.tile.split("x"))
        tiling = Tiling(height=height, width=width)
    marks: list[float] = [time.perf_counter()]
    frames = 0

    def run() -> None:
        nonlocal frames
        for pixels in autoencoder.decode_frames(latent, tiling=tiling):
            frames += pixels.shape[2]
            marks.append(time.perf_counter())

    peak = peak_bytes(run, device="cpu")
    return {
        "frames": frames,
        "seconds": round(marks[-1] - marks[0], 2),
        "seconds_to_first_frames": round(marks[1] - marks[0], 2),
        "peak_mib": round(peak / 2**20),
        "cache_mib_untiled": round(cache_mib(autoencoder, latent)) if tiling is None else 0,
        "all_pixels_mib": round(frames * 3 * args.height * args.width * latent.element_size() / 2**20),
    }


def main() -> None:
    """Reads the command line and prints the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=161)
    parser.add_argument("--height", type=int, default=768)
    parser.add_argument("--width", type=int, default=1360)
    parser.add_argument("--tile", default="", help="rows x columns of a tile in pixels; empty: untiled")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(json.dumps({"settings": vars(args), "result": bench(args)}, indent=2))


if __name__ == "__main__":
    main()
