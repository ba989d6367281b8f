"""A device by name, by a run's own steps or by one measured step: what it holds, how fast it is, what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from cogvideox.denoiser import Denoiser, DenoiserConfig, PackedBatch
from cogvideox.denoiser.flops import forward_flops
from cogvideox.variants import Variant
from groundwork.errors import UsageError
from groundwork.storage import open_storage
from training.fit import variant_of
from training.metrics import read_metrics
from training.recipe import TrainRecipe
from training.recompute import apply_recompute

_GIB = 1 << 30
_PUBLISHED = 0.40
"""Share of the peak that published trainings of video transformers reach, layers that are computed again counted."""


@dataclass(frozen=True)
class Device:
    """`flops_per_second`: peak of dense bfloat16 products; `utilization`: the share of it that work counts on;
    `reached`: why that share."""

    name: str
    flops_per_second: float
    memory_gib: float
    price_per_hour: float = 2.0
    link_bytes_per_second: float = 50e9
    utilization: float = _PUBLISHED
    reached: str = "as published trainings do"
    memory_gib_is_its_own: bool = True
    """False: it is the machine's memory."""


DEVICES = {
    device.name: device
    for device in (
        Device("a100-40", 312e12, 40, 1.2),
        Device("a100", 312e12, 80, 1.5),
        Device("h100", 989e12, 80, 2.0),
        Device("h200", 989e12, 141, 2.5),
        Device("b200", 2250e12, 180, 4.0),
    )
}
HERE = "here"


def device_named(name: str) -> Device:
    """A device of the list. Raises UsageError that lists the known ones."""
    if name not in DEVICES:
        raise UsageError(f"Device {name!r} is not known.", f"Devices: {', '.join(DEVICES)}, and {HERE}.")
    return DEVICES[name]


def chosen_device(name: str, recipe: TrainRecipe, *, run: str, changes: Mapping[str, float | None]) -> Device:
    """The device that is planned for; what is not None among `changes` stands above everything else."""
    variant, workers = variant_of(recipe), recipe.workers.count
    if name == HERE:
        tokens = max(stage.tokens_per_pack for stage in recipe.stages)
        device = this_machine(variant, tokens=tokens, recompute=recipe.engine.recomputed > 0, workers=workers)
    else:
        device = device_named(name)
    if run:
        device = measured_by(run, device, workers=workers)
    given: dict[str, Any] = {field: value for field, value in changes.items() if value is not None}
    if "utilization" in given:
        given["reached"] = "as given"
    return replace(device, **given)


def measured_by(run: str, device: Device, *, workers: int) -> Device:
    """The device with the share of its peak that the steps of a run reached there, its first tenth left out.

    Raises UsageError where the run has no steps.
    """
    rows = read_metrics(open_storage(run))
    rows = rows[len(rows) // 10 :]
    seconds = sum(row.seconds for row in rows)
    if not seconds:
        raise UsageError(f"{run} has no steps to measure by.", "Give the folder of a run that has saved at least once.")
    reached = sum(row.flops for row in rows) / seconds / workers / device.flops_per_second
    return replace(device, utilization=reached, reached=f"as {len(rows)} steps of {run} did")


def this_machine(variant: Variant, *, tokens: int, recompute: bool, workers: int) -> Device:
    """This machine by one measured step of the variant's network: a clip of about so many tokens, there and back.

    The network's layers are alike, so that two of them are measured and the rest is counted.
    """
    config = _two_layers(variant.denoiser)
    denoiser = Denoiser(config).initialize(seed=0).train()
    kind = "cuda" if torch.cuda.is_available() else "cpu"
    denoiser = denoiser.to(kind)
    apply_recompute(denoiser, "full" if recompute else "none")
    batch = _batch(variant, config, tokens=tokens, device=kind)
    lengths = batch.layout(config).clip_lengths
    seconds = min(_seconds(denoiser, batch, kind=kind) for _ in range(3))
    speed = forward_flops(config, lengths) * (4 if recompute else 3) / seconds
    if kind == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory
        name = torch.cuda.get_device_name(0)
    else:
        memory, name = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // workers, "a CPU of this machine"
    return Device(
        name, speed, round(memory / _GIB, 1), 0.0, 1e9, 1.0, "one measured step", memory_gib_is_its_own=kind == "cuda"
    )


def _two_layers(config: DenoiserConfig) -> DenoiserConfig:
    return replace(config, num_layers=min(2, config.num_layers))


def _batch(variant: Variant, config: DenoiserConfig, *, tokens: int, device: str) -> PackedBatch:
    """One clip whose size is about as many tokens as are asked for."""
    rows, columns = variant.height // 8, variant.width // 8
    a_frame = rows * columns // config.patch_size**2
    frames = max(1, round((tokens - config.max_text_tokens) / a_frame)) * config.patch_frames
    latent = torch.randn(config.in_channels, frames, rows, columns, device=device)
    text = torch.randn(config.max_text_tokens, config.text_width, device=device)
    return PackedBatch((latent,), torch.tensor([500], device=device), (text,))


def _seconds(denoiser: Denoiser, batch: PackedBatch, *, kind: str) -> float:
    start = time.perf_counter()
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
        (velocity,) = denoiser.forward_packed(batch)
    torch.autograd.backward(velocity.float().square().mean())
    if kind == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
