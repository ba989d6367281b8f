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
    learning_rate: PositiveFloat = 1e-3
    learns: Literal["codec", "codec_apart", "encoder"] = "codec"
    """codec: encoder and decoder through each other; codec_apart: each against the footage's principal components;
    encoder: it alone, against those, which costs a fifth of the time."""


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
    final_learning_rate: PositiveFloat = 2e-5
    warmup_steps: PositiveInt = 50
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

    def position(self, step: int) -> tuple[Stage, int]:
        """The stage that a step (from 0) belongs to, and how many steps of it came before."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], self.stages[-1].steps
