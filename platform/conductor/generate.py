"""`cvx generate WEIGHTS --prompt …`: one video from a weights folder, no service."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from groundwork import media
from groundwork.commands import Command, Options
from groundwork.errors import UsageError
from groundwork.telemetry import Progress


class GenerateOptions(Options):
    """What to make, from what, and where to put it."""

    weights: tyro.conf.Positional[str]
    """A folder in the diffusers layout, such as RUN/weights."""
    prompt: str
    """What the video shows."""
    out: str
    """The mp4 to write."""
    negative_prompt: str = ""
    """What it must not show."""
    seed: int = 0
    """Equal seeds give equal videos."""
    num_frames: int | None = None
    """Pixel frames, 4N+1. Default: the model card's."""
    size: str | None = None
    """WIDTHxHEIGHT in pixels. Default: the model card's."""
    steps: int | None = None
    """Sampler steps. Default: the model card's."""
    guidance_scale: float | None = None
    """Weight of the prompt against no prompt. Default: the model card's."""


def parse_size(size: str) -> tuple[int, int]:
    """ "WIDTHxHEIGHT" as (height, width). Raises UsageError when it is not two positive numbers."""
    width, _, height = size.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise UsageError(f"--size must be WIDTHxHEIGHT in pixels, got {size!r}.", "Example: --size 144x96")
    return int(height), int(width)


def generate(options: GenerateOptions) -> dict[str, Any]:
    """Sample, decode and write one video; returns what was made."""
    from cogvideox import CogVideoX

    model = CogVideoX.from_pretrained(options.weights)
    card = model.variant
    height, width = parse_size(options.size) if options.size else (card.height, card.width)
    num_frames = options.num_frames or card.num_frames
    num_steps = options.steps or card.num_steps
    with Progress("sample", total=num_steps, unit="step") as progress:
        try:
            frames = model.generate(
                options.prompt,
                negative_prompt=options.negative_prompt or None,
                num_frames=num_frames,
                height=height,
                width=width,
                num_steps=num_steps,
                guidance_scale=options.guidance_scale,
                seed=options.seed,
                callback=lambda _: progress.update(),
            )
        except ValueError as error:
            raise UsageError(f"{card.name} cannot make this video: {error}") from error
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    media.write_video(options.out, frames.numpy(), fps=card.fps)
    return {"out": options.out, "num_frames": len(frames), "height": height, "width": width, "fps": card.fps}


COMMAND = Command(
    name="generate",
    summary="one video from a weights folder, no service",
    options=GenerateOptions,
    run=generate,
    text=lambda made: f"{made['out']}: {made['num_frames']} frames, {made['width']}x{made['height']}",
)
