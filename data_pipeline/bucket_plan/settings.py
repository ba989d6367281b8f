"""What a plan of buckets may be asked for."""

from __future__ import annotations

from pydantic import Field

from data_pipeline.buckets import Weights
from groundwork.config import FrozenModel


class PlanSettings(FrozenModel):
    """How many buckets, for which model, within which bounds."""

    count: int = Field(default=6, ge=1, le=64)
    """Buckets for film at most."""
    image_count: int = Field(default=3, ge=1, le=64)
    """Buckets for images at most, where there are images: shapes of one frame."""
    variant: str = ""
    """Model card that the frames, tokens and sizes must suit. Default: the dataset's, else cogvideox-5b."""
    fps: float = Field(default=0.0, ge=0)
    """Frame rate of the clips. Default: the dataset's, else the model's."""
    frame_step: int = Field(default=0, ge=0)
    """Frames are this many times N, and one more. Default: 4 where a token holds one latent frame, 8 where it holds two
    (the 1.5 models)."""
    max_tokens: int = Field(default=0, ge=0)
    """Video tokens of a clip at most. Default: those of the model's own size and length, at its greatest length."""
    max_pixels: int = Field(default=0, ge=0)
    """Pixels of a frame at most; what sources have beyond is not counted as lost. Default: the model's own size."""
    min_seconds: float = Field(default=1.0, ge=0)
    """No bucket is shorter."""
    max_seconds: float = Field(default=0.0, ge=0)
    """No bucket is longer. Default: the greatest length of the model."""
    aspect_from: float = Field(default=1 / 3, gt=0)
    """Narrowest bucket: columns / rows."""
    aspect_to: float = Field(default=3.0, gt=0)
    """Widest bucket: columns / rows."""
    shot_seconds: float = Field(default=5.0, ge=0)
    """With --input alone, headers do not tell where the cuts are: every so many seconds (0: a source is one shot)."""
    weights: Weights = Weights()
