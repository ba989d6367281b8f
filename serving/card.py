"""What the routes must know of the model, as plain values: which sizes and lengths it makes, and its defaults."""

from __future__ import annotations

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
    max_frames: int
    max_text_tokens: int
    steps: int
    max_steps: int
    guidance_scale: float
    takes_image: bool = False
    """Whether a video starts from a picture, which then has to come with the request."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRAs on offer."""

    def frame_counts(self) -> list[int]:
        """Every length on offer, in pixel frames."""
        return list(range(self.frame_step + 1, self.max_frames + 1, self.frame_step))

    @classmethod
    def of(
        cls,
        variant: Variant,
        *,
        sizes: tuple[str, ...],
        steps: int | None,
        max_steps: int,
        adapters: tuple[str, ...] = (),
    ) -> ModelCard:
        """The card of a variant. Raises ValueError for a size that the model cannot make."""
        offered = tuple(map(Size.parse, sizes)) or (Size(width=variant.width, height=variant.height),)
        for size in offered:
            variant.check_size(num_frames=variant.num_frames, height=size.height, width=size.width)
        return cls(
            name=variant.name,
            sizes=offered,
            fps=variant.fps,
            num_frames=variant.num_frames,
            frame_step=variant.frame_rule.step,
            max_frames=variant.frame_rule.max_frames,
            max_text_tokens=variant.text.max_tokens,
            steps=steps or variant.num_steps,
            max_steps=max(max_steps, steps or variant.num_steps),
            guidance_scale=variant.guidance_scale,
            takes_image=variant.takes_image,
            adapters=adapters,
        )
