"""A plain denoiser becomes one that trains on many workers; the network itself does not know.

In order: activation checkpointing, then the engine. Each is one function here, and each is a choice of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser, PackedBatch
from cogvideox.denoiser.block import Block
from groundwork.errors import RecipeError
from training.engines import Engine
from training.engines.ddp import DdpEngine
from training.engines.fsdp import FsdpEngine
from training.engines.zero import ZeroEngine
from training.recipe import EngineSettings, OptimizerSettings


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

    Raises RecipeError where the number of workers does not fit.
    """
    check_workers(engine, dist.get_world_size())
    apply_activation_checkpointing(denoiser, enabled=engine.activation_checkpointing)
    return apply_engine(denoiser, engine=engine, optimizer=optimizer)


def check_workers(engine: EngineSettings, count: int) -> None:
    """Raises RecipeError that lists what is allowed where `count` workers cannot be grouped as the recipe says."""
    if count % engine.replicas:
        allowed = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise RecipeError(
            f"engine.replicas is {engine.replicas}: {count} workers do not form as many equal groups.",
            f"Allowed with {count} workers: {allowed}.",
        )


def apply_activation_checkpointing(denoiser: Denoiser, *, enabled: bool) -> None:
    """Each layer is computed again in the backward pass instead of keeping its activations."""
    denoiser.activation_checkpointing = enabled


def apply_engine(denoiser: Denoiser, *, engine: EngineSettings, optimizer: OptimizerSettings) -> Engine:
    """The network's state and the gradients' sum, spread over the workers."""
    module, prefix, autocast = PackedDenoiser(denoiser), "denoiser.", engine.precision == "bfloat16"
    if engine.kind == "ddp":
        return DdpEngine(module, prefix=prefix, autocast=autocast, optimizer=optimizer)
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
