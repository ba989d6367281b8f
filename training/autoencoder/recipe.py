"""What a training of the autoencoder reads: one frozen model of its YAML recipe."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from cogvideox.autoencoder import AutoencoderConfig
from groundwork.config import FrozenModel


class Stage(FrozenModel):
    """A stretch of steps at one clip size (pixel frames, rows, columns)."""

    num_frames: PositiveInt
    height: PositiveInt
    width: PositiveInt
    steps: PositiveInt
    batch: PositiveInt = 1
    latents: Literal["learnt", "principal"] = "learnt"
    """principal: encoder and decoder each learn against the footage's principal components; learnt: from each other."""


class AutoencoderRecipe(FrozenModel):
    """Everything that decides the outcome of a training, except the machine."""

    kind: Literal["autoencoder"] = "autoencoder"
    footage: Literal["demo"] | tuple[Path, ...] = Field("demo", description="'demo', or video files")
    fps: PositiveFloat = 8.0
    height: PositiveInt = 96
    width: PositiveInt = 144
    zooms: tuple[float, ...] = (1.0, 1.5)
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    stages: tuple[Stage, ...]
    learning_rate: PositiveFloat = 1e-3
    final_learning_rate: PositiveFloat = 2e-5
    warmup_steps: PositiveInt = 50
    decay_steps: PositiveInt = 300
    weight_decay: float = 0.0
    gradient_clip: PositiveFloat = 1.0
    ema_decay: float = Field(0.998, ge=0, lt=1)
    l1_weight: float = 1.0
    perceptual_weight: float = 1.0
    kl_weight: float = 1e-6
    autocast: bool = True
    checkpoint_every_steps: PositiveInt = 100
    seed: int = 0

    @property
    def num_steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that step (from 0) belongs to; the last one from its end on."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]
