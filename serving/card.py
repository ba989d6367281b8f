"""What the routes must know of the model, as plain values: which sizes and lengths it makes, and its defaults."""

from __future__ import annotations

import contextlib

from cogvideox.denoiser.flops import forward_flops
from cogvideox.shape import latent_shape, padded_latent_frames
from cogvideox.variants import Variant
from groundwork.config import FrozenModel


class Size(FrozenModel):
    """Pixels of a picture; on the wire "WIDTHxHEIGHT"."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def parse(cls, text: str) -> Size:
        """Raises ValueError for anything but WIDTHxHEIGHT."""
        width, cross, height = text.partition("x")
        if not (cross and width.isdecimal() and height.isdecimal()):
            raise ValueError(f"size={text!r}: must be WIDTHxHEIGHT in pixels, like 1360x768")
        return cls(width=int(width), height=int(height))


class ModelCard(FrozenModel):
    """One model as it is offered by this service."""

    name: str
    sizes: tuple[Size, ...]
    """The first is the default."""
    fps: int
    num_frames: int
    """Pixel frames of a request that says nothing about length."""
    frame_step: int
    """Lengths are multiples of this, plus one."""
    lengths: tuple[int, ...]
    """Every length on offer, in pixel frames."""
    max_text_tokens: int
    steps: int
    max_steps: int
    guidance_scale: float
    takes_image: bool
    """A picture to start from is needed."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRAs on offer."""
    enhances_prompts: bool = False
    step_tflop: dict[str, float]
    """Arithmetic of one denoising step with guidance, by "WIDTHxHEIGHTxFRAMES"."""

    def tflop(self, *, size: Size, num_frames: int, guided: bool) -> float:
        """Arithmetic of one denoising step."""
        return self.step_tflop[f"{size}x{num_frames}"] * (1.0 if guided else 0.5)

    def frame_counts(self) -> list[int]:
        """Every length on offer, in pixel frames."""
        return list(self.lengths)

    @classmethod
    def of(
        cls,
        variant: Variant,
        *,
        sizes: tuple[str, ...],
        steps: int | None,
        max_steps: int,
        adapters: tuple[str, ...] = (),
        enhances_prompts: bool = False,
    ) -> ModelCard:
        """The card of a variant. Raises ValueError for a size that the model cannot make."""
        offered = tuple(map(Size.parse, sizes)) or (Size(width=variant.width, height=variant.height),)
        for size in offered:
            variant.check_size(num_frames=variant.num_frames, height=size.height, width=size.width)
        lengths = _lengths(variant, offered[0])
        return cls(
            name=variant.name,
            sizes=offered,
            fps=variant.fps,
            num_frames=variant.num_frames,
            frame_step=variant.frame_rule.step,
            lengths=lengths,
            max_text_tokens=variant.text.max_tokens,
            steps=steps or variant.num_steps,
            max_steps=max(max_steps, steps or variant.num_steps),
            guidance_scale=variant.guidance_scale,
            takes_image=variant.takes_image,
            adapters=adapters,
            enhances_prompts=enhances_prompts,
            step_tflop={f"{size}x{frames}": _tflop(variant, size, frames) for size in offered for frames in lengths},
        )


def _lengths(variant: Variant, size: Size) -> tuple[int, ...]:
    """All that the frame rule allows; one alone for a model with learned positions."""
    rule, found = variant.frame_rule, []
    for num_frames in range(rule.step + 1, rule.max_frames + 1, rule.step):
        with contextlib.suppress(ValueError):
            variant.check_size(num_frames=num_frames, height=size.height, width=size.width)
            found.append(num_frames)
    return tuple(found)


def _tflop(variant: Variant, size: Size, num_frames: int) -> float:
    config = variant.denoiser
    frames, rows, columns = latent_shape(num_frames, size.height, size.width)
    padded = padded_latent_frames(frames, patch_frames=config.patch_frames)
    tokens = padded // config.patch_frames * (rows // config.patch_size) * (columns // config.patch_size)
    return 2 * forward_flops(config, [tokens + variant.text.max_tokens]) / 1e12
