"""A plain denoiser becomes one that trains on many workers; the network itself does not know.

In order: 8-bit products, compiled code, sequence parallel, activation checkpointing, the engine. Each is one function,
and a choice of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser, PackedBatch
from cogvideox.denoiser.block import Block
from training.compute import apply_compile, apply_float8
from training.engines import Engine
from training.engines.canonical import CanonicalEngine
from training.engines.ddp import DdpEngine
from training.engines.fsdp import FsdpEngine
from training.engines.groups import check_workers, sequence_group
from training.engines.zero import ZeroEngine
from training.recipe import EngineSettings, OptimizerSettings
from training.recompute import apply_recompute


class PackedDenoiser(nn.Module):
    """A denoiser whose `forward` takes a pack and returns one tensor.

    Engines only know `forward`; and ZeRO-3, which follows the order of its calls on every worker, counts one more for
    every tensor that comes out, while packs differ in their number of clips.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, batch: PackedBatch) -> Float[Tensor, " values"]:
        """The velocities of all clips, flattened, end to end."""
        return torch.cat([velocity.flatten() for velocity in self.denoiser.forward_packed(batch)])


def velocities(values: Float[Tensor, " values"], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """The answer of a `PackedDenoiser`, one velocity per clip again."""
    parts = torch.split(values, [shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def parallelize(denoiser: Denoiser, *, engine: EngineSettings, optimizer: OptimizerSettings) -> Engine:
    """Everything that the recipe asks for, in order. Call it on every worker of an initialised process group.

    Raises RecipeError where the number of workers does not fit, or the device does not have what is asked for.
    """
    check_workers(engine, workers=dist.get_world_size(), heads=denoiser.config.num_heads)
    if engine.precision == "float8":
        apply_float8(denoiser)
    if engine.compile:
        apply_compile(denoiser)
    apply_sequence_parallel(denoiser, count=engine.sequence_parallel)
    apply_recompute(denoiser, engine.activation_checkpointing)
    return apply_engine(denoiser, engine=engine, optimizer=optimizer)


def apply_sequence_parallel(denoiser: Denoiser, *, count: int) -> None:
    """Every row of tokens is shared by `count` workers."""
    denoiser.sequence_group = sequence_group(count)


def apply_engine(denoiser: Denoiser, *, engine: EngineSettings, optimizer: OptimizerSettings) -> Engine:
    """The network's state and the gradients' sum, spread over the workers."""
    module, prefix, autocast = PackedDenoiser(denoiser), "denoiser.", engine.is_mixed
    if engine.kind in ("ddp", "canonical"):
        replicated = DdpEngine if engine.kind == "ddp" else CanonicalEngine
        return replicated(module, prefix=prefix, autocast=autocast, optimizer=optimizer)
    if engine.kind == "fsdp":
        replicas, whole = engine.replicas, (Block,)
        return FsdpEngine(module, prefix=prefix, whole=whole, replicas=replicas, autocast=autocast, optimizer=optimizer)
    return ZeroEngine(
        module,
        prefix=prefix,
        stage=int(engine.kind.removeprefix("zero-")),
        whole=(Block,),
        offload=engine.offload,
        autocast=autocast,
        optimizer=optimizer,
    )
