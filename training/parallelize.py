"""A plain denoiser becomes one that trains on many workers; the network itself does not know.

In order: activation checkpointing, then ZeRO. Each is one function here, and each is a choice of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser, PackedBatch
from cogvideox.denoiser.block import Block
from training.recipe import EngineSettings, OptimizerSettings
from training.zero import ZeroEngine


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


def parallelize(denoiser: Denoiser, *, engine: EngineSettings, optimizer: OptimizerSettings) -> ZeroEngine:
    """Everything that the recipe asks for, in order. Call it on every worker of an initialised process group."""
    apply_activation_checkpointing(denoiser, enabled=engine.activation_checkpointing)
    return apply_zero(denoiser, engine=engine, optimizer=optimizer)


def apply_activation_checkpointing(denoiser: Denoiser, *, enabled: bool) -> None:
    """Each layer is computed again in the backward pass instead of keeping its activations."""
    denoiser.activation_checkpointing = enabled


def apply_zero(denoiser: Denoiser, *, engine: EngineSettings, optimizer: OptimizerSettings) -> ZeroEngine:
    """Optimiser states (1), gradients (2) and parameters (3) sharded over the workers."""
    return ZeroEngine(
        PackedDenoiser(denoiser),
        prefix="denoiser.",
        stage=engine.zero_stage,
        whole=(Block,),
        autocast=engine.precision == "bfloat16",
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        gradient_clip=optimizer.gradient_clip,
    )
