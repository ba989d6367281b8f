"""Model cards: every number of the toy and of the published CogVideoX models, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from cogvideox import shape
from cogvideox.autoencoder.config import AutoencoderConfig
from cogvideox.denoiser.config import DenoiserConfig

DynamicGuidance = Literal["off", "smooth", "wave"]


@dataclass(frozen=True)
class TextConfig:
    """What turns a prompt into an embedding: `max_tokens` rows of `width`."""

    kind: Literal["t5", "hash"] = "t5"
    max_tokens: int = 226
    width: int = 4096


@dataclass(frozen=True)
class FrameRule:
    """Pixel frames that a model was trained for: `step`·N + 1 up to `max_frames`; `recommended_step` is stricter."""

    step: int = 8
    max_frames: int = 49
    recommended_step: int = 8

    def allows(self, num_frames: int) -> bool:
        """Whether `num_frames` is step·N + 1 (length is not judged: longer clips run, at lower quality)."""
        return num_frames >= 1 and (num_frames - 1) % self.step == 0


@dataclass(frozen=True)
class Variant:
    """One model card. Where published code bases disagree, the field says which side the default takes.

    - `image_latent_scale`: factor on the image's latent (1.0: 0.7; 1.5: SAT multiplies by 1.0, diffusers by 1/0.7).
    - `image_placement`: latent frames that hold the image in 1.5: "first" is index 0 only (SAT, every training
      script), "repeated" is indices 0 and 1 (the padding frame copies it).
    - `unconditional`: the text of the guidance's other half: "zeros" (SAT) or the embedding of "" (diffusers).
    - `dynamic_guidance`: default of generation; "wave" is what both code bases compute, "smooth" what they meant.
    """

    name: str
    denoiser: DenoiserConfig
    scale_factor: float  # latents that the denoiser sees = scale_factor · latents of the autoencoder
    snr_shift: float
    num_frames: int
    height: int
    width: int
    fps: int
    frame_rule: FrameRule
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    sampler: Literal["ddim", "dpm"] = "dpm"
    num_steps: int = 50
    guidance_scale: float = 6.0
    dynamic_guidance: DynamicGuidance = "off"
    unconditional: Literal["zeros", "empty"] = "zeros"
    image_latent_scale: float = 1.0
    image_placement: Literal["first", "repeated"] = "first"
    precision: Literal["float32", "float16", "bfloat16"] = "bfloat16"

    @property
    def takes_image(self) -> bool:
        """Whether generation starts from an image."""
        return self.denoiser.conditions_on_image

    def check_size(self, *, num_frames: int, height: int, width: int) -> None:
        """Raises ValueError, with what is allowed, for a video this model cannot make."""
        if not self.frame_rule.allows(num_frames):
            raise ValueError(f"num_frames={num_frames}: {self.name} makes {self.frame_rule.step}N + 1 frames")
        multiple = shape.SPATIAL_COMPRESSION * self.denoiser.patch_size
        for name, value in (("height", height), ("width", width)):
            if value < multiple or value % multiple:
                raise ValueError(f"{name}={value}: must be a positive multiple of {multiple}")
        native = (self.num_frames, self.height, self.width)
        if self.denoiser.positions == "rope+learned" and (num_frames, height, width) != native:
            raise ValueError(
                f"{num_frames} frames of {height}x{width}: {self.name} has learned positions and only makes "
                f"{native[0]} frames of {native[1]}x{native[2]}"
            )


def _five_billion(**changes: object) -> DenoiserConfig:
    return DenoiserConfig(num_layers=42, num_heads=48, **changes)  # type: ignore[arg-type]


_RULE_1_0 = FrameRule(step=8, max_frames=49)
_RULE_1_5 = FrameRule(step=8, max_frames=161, recommended_step=16)
# Latent sizes of the base grid: 1.5 slices its rotary table from 300x300 latents (SAT, later diffusers configs).
_BASE_1_5 = {"patch_frames": 2, "sample_frames": 21, "sample_height": 300, "sample_width": 300}

TOY = Variant(
    name="toy",
    denoiser=DenoiserConfig(
        num_layers=4,
        num_heads=3,
        text_width=256,
        max_text_tokens=32,
        time_width=128,
        sample_frames=5,
        sample_height=12,
        sample_width=18,
    ),
    autoencoder=AutoencoderConfig(block_widths=(16, 32, 64, 64), layers_per_block=1, norm_groups=8),
    text=TextConfig(kind="hash", max_tokens=32, width=256),
    scale_factor=1.083153,
    snr_shift=1.0,
    num_frames=17,
    height=96,
    width=144,
    fps=8,
    frame_rule=FrameRule(step=8, max_frames=17),
    sampler="ddim",
    num_steps=20,
    guidance_scale=1.5,  # it knows its few clips by heart: 6 as above only overdrives their colours (measured)
    precision="float32",
)

TOY_I2V = replace(
    TOY,
    name="toy-i2v",
    denoiser=replace(TOY.denoiser, in_channels=32),
    image_latent_scale=TOY.scale_factor,
)

COGVIDEOX_2B = Variant(
    name="cogvideox-2b",
    denoiser=DenoiserConfig(num_layers=30, num_heads=30, positions="sincos"),
    scale_factor=1.15258426,
    snr_shift=3.0,
    num_frames=49,
    height=480,
    width=720,
    fps=8,
    frame_rule=_RULE_1_0,
    sampler="ddim",
    precision="float16",
)

COGVIDEOX_5B = Variant(
    name="cogvideox-5b",
    denoiser=_five_billion(),
    scale_factor=0.7,
    snr_shift=1.0,
    num_frames=49,
    height=480,
    width=720,
    fps=8,
    frame_rule=_RULE_1_0,
)

COGVIDEOX_5B_I2V = Variant(
    name="cogvideox-5b-i2v",
    denoiser=_five_billion(in_channels=32, positions="rope+learned"),
    scale_factor=0.7,
    snr_shift=1.0,
    num_frames=49,
    height=480,
    width=720,
    fps=8,
    frame_rule=_RULE_1_0,
    image_latent_scale=0.7,
)

COGVIDEOX_1_5_5B = Variant(
    name="cogvideox1.5-5b",
    denoiser=_five_billion(max_text_tokens=224, **_BASE_1_5),
    text=TextConfig(max_tokens=224),
    scale_factor=0.7,
    snr_shift=1.0,
    num_frames=81,
    height=768,
    width=1360,
    fps=16,
    frame_rule=_RULE_1_5,
)

COGVIDEOX_1_5_5B_I2V = Variant(
    name="cogvideox1.5-5b-i2v",
    denoiser=_five_billion(max_text_tokens=224, in_channels=32, offset_width=512, **_BASE_1_5),
    text=TextConfig(max_tokens=224),
    scale_factor=0.7,
    snr_shift=1.0,
    num_frames=81,
    height=768,
    width=1360,
    fps=16,
    frame_rule=_RULE_1_5,
    image_latent_scale=1.0,
)

VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        variant.name: variant
        for variant in (
            TOY,
            TOY_I2V,
            COGVIDEOX_2B,
            COGVIDEOX_5B,
            COGVIDEOX_5B_I2V,
            COGVIDEOX_1_5_5B,
            COGVIDEOX_1_5_5B_I2V,
        )
    }
)
