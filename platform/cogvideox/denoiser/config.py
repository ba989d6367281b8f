"""The shape of a denoiser: every number that its layers are built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Positions = Literal["sincos", "rope", "rope+learned"]
RopeMode = Literal["extrapolate", "interpolate"]


@dataclass(frozen=True)
class DenoiserConfig:
    """Numbers of the expert transformer (CogVideoX paper, Table 6, and the published weights where they disagree).

    `sample_*` is the native size: latent rows and columns, and *latent* frames. It is the base grid of interpolated
    rotary positions and the only size a learned table fits.
    """

    num_layers: int
    num_heads: int
    head_width: int = 64
    in_channels: int = 16
    out_channels: int = 16
    patch_frames: int = 1  # latent frames in one token; 1 in version 1.0, 2 in version 1.5
    patch_size: int = 2  # latent rows and columns in one token
    text_width: int = 4096
    max_text_tokens: int = 226
    time_width: int = 512
    offset_width: int | None = None  # width of the extra "ofs" scalar of 1.5 image-to-video, None without it
    positions: Positions = "rope"
    rope_mode: RopeMode = "extrapolate"
    sample_frames: int = 13
    sample_height: int = 60
    sample_width: int = 90
    spatial_interpolation: float = 1.875  # divides row and column indices of sin-cos positions
    temporal_interpolation: float = 1.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "head_width", "in_channels", "out_channels", "time_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.head_width % 16:
            raise ValueError(f"head_width={self.head_width}: must be a multiple of 16 (rotary split 2:3:3 into pairs)")
        if self.patch_frames not in (1, 2):
            raise ValueError(f"patch_frames={self.patch_frames}: must be 1 (version 1.0) or 2 (version 1.5)")

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.num_heads * self.head_width

    @property
    def patch(self) -> tuple[int, int, int]:
        """Latent frames, rows and columns in one token."""
        return (self.patch_frames, self.patch_size, self.patch_size)

    @property
    def patch_volume(self) -> int:
        """Latent positions in one token."""
        return self.patch_frames * self.patch_size**2

    @property
    def conditions_on_image(self) -> bool:
        """Whether the input carries image channels behind the noisy ones."""
        return self.in_channels > self.out_channels
