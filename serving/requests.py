"""A request as it came becomes `JobSettings` with nothing left open, or a `RequestError` that names the field."""

from __future__ import annotations

import math
import secrets

from serving.card import ModelCard, Size
from serving.errors import RequestError
from serving.jobs.job import JobSettings, Reference
from serving.protocol import CreateVideo
from serving.references import ReferenceFile, check_kind, check_length


def settle(request: CreateVideo, card: ModelCard, *, reference: ReferenceFile | None = None) -> JobSettings:
    """Fill in every default and check every limit but the prompt's length, which only the text encoder can tell.

    `reference` is what the video starts from. Raises RequestError 400 or 404.
    """
    if request.model not in (None, card.name):
        message = f"There is no model {request.model!r} here; this service offers {card.name!r}."
        raise RequestError(404, "model_not_found", message, param="model")
    size = _size(request, card)
    fps = request.fps or card.fps
    num_frames = _num_frames(request, card, fps=fps)
    steps = request.num_inference_steps or card.steps
    if steps > card.max_steps:
        message = f"num_inference_steps={steps}: at most {card.max_steps}."
        raise RequestError(400, "invalid_steps", message, param="num_inference_steps")
    _check_adapters(request, card)
    return JobSettings(
        model=card.name,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        num_frames=num_frames,
        height=size.height,
        width=size.width,
        fps=fps,
        steps=steps,
        guidance_scale=card.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        # 53 bits, so that a client in JavaScript reads the very number that was used.
        seed=secrets.randbits(53) if request.seed is None else request.seed,
        seconds=request.seconds or f"{(num_frames - 1) / fps:g}",
        sampler=request.scheduler,
        reference=_reference(request, card, reference, num_frames=num_frames, fps=fps),
        adapters=request.loras,
    )


def _check_adapters(request: CreateVideo, card: ModelCard) -> None:
    for adapter in request.loras:
        if adapter.name not in card.adapters:
            offered = ", ".join(card.adapters) or "none"
            message = f"There is no LoRA {adapter.name!r} here; offered: {offered}."
            raise RequestError(404, "lora_not_found", message, param="loras")
    if len({adapter.name for adapter in request.loras}) < len(request.loras):
        raise RequestError(400, "invalid_value", "A LoRA is named twice.", param="loras")


def _reference(
    request: CreateVideo, card: ModelCard, file: ReferenceFile | None, *, num_frames: int, fps: int
) -> Reference | None:
    """What the video starts from. Raises RequestError 400 when the model needs another start or a longer one."""
    check_kind(None if file is None else file.kind, takes_image=card.takes_image)
    if file is None:
        return None
    if file.kind == "image":
        return Reference(kind="image", sha256=file.sha256)
    check_length(file, num_frames=num_frames, fps=fps)
    return Reference(kind="video", sha256=file.sha256, strength=request.strength)


def _size(request: CreateVideo, card: ModelCard) -> Size:
    if request.size is None:
        return card.sizes[0]
    offered = ", ".join(map(str, card.sizes))
    try:
        size = Size.parse(request.size)
    except ValueError as error:
        raise RequestError(400, "invalid_size", f"{error}. Offered: {offered}.", param="size") from error
    if size not in card.sizes:
        raise RequestError(400, "invalid_size", f"size={request.size!r} is not offered: {offered}.", param="size")
    return size


def _num_frames(request: CreateVideo, card: ModelCard, *, fps: int) -> int:
    offered = ", ".join(map(str, card.frame_counts()))
    if request.num_frames is not None and request.num_frames not in card.frame_counts():
        message = f"num_frames={request.num_frames}: {card.name} makes {offered} frames."
        raise RequestError(400, "invalid_frames", message, param="num_frames")
    if request.seconds is None:
        return request.num_frames or card.num_frames
    derived = _frames_of(request.seconds, card, fps=fps)
    if derived not in card.frame_counts():
        lengths = ", ".join(f"{(frames - 1) / fps:g}" for frames in card.frame_counts())
        message = f"seconds={request.seconds!r}: at {fps} fps {card.name} makes up to {lengths} seconds."
        raise RequestError(400, "invalid_seconds", message, param="seconds")
    if request.num_frames is not None and request.num_frames != derived:
        message = (
            f"seconds={request.seconds!r} means {derived} frames at {fps} fps, but num_frames={request.num_frames}."
        )
        raise RequestError(400, "invalid_seconds", message, param="seconds")
    return derived


def _frames_of(seconds: str, card: ModelCard, *, fps: int) -> int:
    """The shortest length on offer that lasts `seconds`: 10 s at 16 fps are 160 frames, so 161."""
    try:
        length = float(seconds)
    except ValueError:
        length = math.nan
    if not 0 < length < 86_400:
        message = f"seconds={seconds!r}: must be a positive number of seconds."
        raise RequestError(400, "invalid_seconds", message, param="seconds")
    return math.ceil(round(length * fps / card.frame_step, 6)) * card.frame_step + 1
