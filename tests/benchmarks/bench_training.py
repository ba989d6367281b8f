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
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as dist
from torch import Tensor

from cogvideox.denoiser import DenoiserConfig, PackedBatch
from cogvideox.objective import add_noise, clip_losses, velocity_target
from cogvideox.schedule import Schedule
from cogvideox.weights import save_denoiser
from tests.benchmarks.bench_training_run import run_seconds
from tests.support.denoisers import diffusers_rope, diffusers_twin, random_denoiser
from training.costs import forward_flops
from training.parallelize import PackedDenoiser, velocities

TINY = DenoiserConfig(
    num_layers=6, num_heads=6, text_width=256, max_text_tokens=64, time_width=512, rope_mode="interpolate"
)
_LATENTS = {
    "A": [(5, 16, 24)] * 2,
    "B": [(9, 30, 44)],
    "C": [(1, 16, 24), (5, 16, 24), (3, 16, 24), (4, 16, 16), (13, 16, 24)],
}
_SCHEDULE = Schedule(3.0)
Clips = list[tuple[Tensor, Tensor, Tensor]]
"""Clean latent, text embedding, timestep."""


class Side:
    """A model with its optimiser: `forward` turns noisy clips into velocities."""

    def __init__(
        self, model: torch.nn.Module, answer: Callable[[Clips, list[Tensor]], list[Tensor]], *, together: bool
    ):
        self.model, self._answer, self._together = model.train(), answer, together
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def gradients(self, clips: Clips, *, bf16: bool, seed: int) -> float:
        """One step's loss; the gradients are left behind."""
        generator, total = torch.Generator().manual_seed(seed), 0.0
        for members in [clips] if self._together else [[clip] for clip in clips]:
            noises = [torch.randn(clip[0].shape, generator=generator) for clip in members]
            pairs = list(zip(members, noises, strict=True))
            noisy = [add_noise(x[None], e[None], timestep=t, schedule=_SCHEDULE)[0] for (x, _, t), e in pairs]
            targets = [velocity_target(x[None], e[None], timestep=t, schedule=_SCHEDULE) for (x, _, t), e in pairs]
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                answers = self._answer(members, noisy)
            losses = [clip_losses(v[None], target) for v, target in zip(answers, targets, strict=True)]
            loss = torch.cat(losses).sum() / len(clips)
            torch.autograd.backward(loss)
            total += float(loss.detach())
        return total

    def step(self, clips: Clips, *, bf16: bool, seed: int = 0) -> None:
        """A whole optimiser step."""
        self.gradients(clips, bf16=bf16, seed=seed)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def flat_gradient(self) -> Tensor:
        """All gradients end to end, sorted by size and sum: the two sides name their parameters differently."""
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(sorted(found, key=lambda g: (g.numel(), float(g.double().square().sum()))))


def sides() -> dict[str, Side]:
    """Ours and diffusers' model with the same weights."""
    network = random_denoiser(TINY)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.endswith("norm.weight"):
                parameter *= 0.3
    with tempfile.TemporaryDirectory() as folder:
        twin: Any = diffusers_twin(save_denoiser(network, Path(folder) / "transformer"))
    module = PackedDenoiser(network)

    def packed(clips: Clips, noisy: list[Tensor]) -> list[Tensor]:
        batch = PackedBatch(tuple(noisy), torch.cat([t for _, _, t in clips]), tuple(text for _, text, _ in clips))
        return velocities(module(batch), [clip.shape for clip in noisy])

    def alone(clips: Clips, noisy: list[Tensor]) -> list[Tensor]:
        text, timestep = torch.stack([text for _, text, _ in clips]), torch.cat([t for _, _, t in clips])
        rope, latents = rope_of(tuple(noisy[0].shape[1:])), torch.stack(noisy).transpose(1, 2)
        (answer,) = twin(latents, text, timestep, image_rotary_emb=rope, return_dict=False)
        return list(answer.transpose(1, 2))

    return {"ours": Side(module, packed, together=True), "diffusers": Side(twin, alone, together=False)}


@cache
def rope_of(size: tuple[int, int, int]) -> Any:
    """diffusers' rotary table of a size: computed once, as a careful loop would."""
    frames, height, width = size
    return diffusers_rope(TINY, frames=frames, height=height, width=width)


def clips_of(shape: str) -> Clips:
    """Random latents and texts of the sizes of `shape`."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number, (frames, height, width) in enumerate(_LATENTS[shape]):
        latent = torch.randn(TINY.out_channels, frames, height, width, generator=generator)
        text = torch.randn(TINY.max_text_tokens, TINY.text_width, generator=generator)
        found.append((latent, text, torch.tensor([137 + 190 * number])))
    return found


def measure(shape: str, dtype: str, *, rounds: int) -> dict[str, Any]:
    """One shape and type, interleaved."""
    both, clips, bf16 = sides(), clips_of(shape), dtype == "bf16"
    if shape == "A":  # of one size: diffusers takes them as a batch
        both["diffusers"]._together = True
    losses = {name: side.gradients(clips, bf16=bf16, seed=1) for name, side in both.items()}
    one, other = (side.flat_gradient() for side in both.values())
    cosine = float(torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=0))
    seconds: dict[str, list[float]] = {name: [] for name in both}
    for turn in range(rounds + 1):
        for name, side in both.items():
            began = time.process_time()
            side.step(clips, bf16=bf16)
            if turn:
                seconds[name].append(time.process_time() - began)
    best = {name: min(values) for name, values in seconds.items()}
    tokens = [x.shape[1] * x.shape[2] * x.shape[3] // 4 + TINY.max_text_tokens for x, _, _ in clips]
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
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    loop = run_seconds(TINY, clips_of("C"), steps=4 * options.rounds)
    dist.destroy_process_group()
    json.dump({"rows": rows, "loop": loop}, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
