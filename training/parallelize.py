"""A plain denoiser becomes one that trains on many workers; the network itself does not know.

In order: activation checkpointing, then ZeRO. Each is one function here, and each is a choice of the recipe.
"""

from __future__ import annotations

from torch import Tensor, nn

from cogvideox.denoiser import Denoiser, PackedBatch
from training.recipe import EngineSettings, OptimizerSettings
from training.zero import ZeroEngine


class PackedDenoiser(nn.Module):
    """A denoiser whose `forward` takes a pack: engines only know `forward`."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, batch: PackedBatch) -> list[Tensor]:
        """One velocity [c, t, h, w] per clip of the pack."""
        return self.denoiser.forward_packed(batch)


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
        autocast=engine.precision == "bfloat16",
        betas=(optimizer.beta1, optimizer.beta2),
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        gradient_clip=optimizer.gradient_clip,
    )
