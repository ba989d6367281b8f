"""A clip becomes the frames that a model sees, and frames with words the tensors it takes: shared with training.

`instants` says when, `read_frames` decodes once for all who ask, `conversation` puts frames and words in order,
`to_inputs` makes the left-padded batch for generation (or the right-padded one for training, with `answers`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipeline.captions.asks import Ask
from data_pipeline.captions.settings import ModelSettings
from groundwork import media
from groundwork.errors import MediaError

Picture = UInt8[np.ndarray, "h w 3"]


def instants(settings: ModelSettings, seconds: float) -> list[float]:
    """Seconds from the clip's beginning at which the model sees a frame, of a clip that is `seconds` long.

    even: the middles of `num_frames` equal parts; spaced: 0, s, 2 s … up to the end, at most `num_frames`.
    """
    if settings.frames == "even":
        return [round((number + 0.5) * seconds / settings.num_frames, 6) for number in range(settings.num_frames)]
    count = max(1, int(np.ceil(seconds / settings.spacing_seconds - 1e-9)))
    return [round(number * settings.spacing_seconds, 6) for number in range(min(count, settings.num_frames))]


def read_frames(
    path: str | Path, *, start_seconds: float, stop_seconds: float, at: Mapping[str, Sequence[float]], short_side: int
) -> dict[str, list[Picture]]:
    """For each list of instants (`at`, by name; seconds from `start_seconds`) the frames on display then, from one pass
    over the span, with a shorter side of at most `short_side` pixels. Frames that several lists share are one array.

    Raises MediaError when the span cannot be decoded, or holds no frame.
    """
    wanted = sorted({instant for moments in at.values() for instant in moments})
    shown: dict[float, Picture] = {}
    last: Picture | None = None
    # A frame goes on display before the span's first instant where the cut lies between two frames.
    for frame in media.read_frames(path, start_seconds=start_seconds, stop_seconds=stop_seconds, short_side=short_side):
        due = [one for one in wanted if one not in shown and start_seconds + one < frame.seconds - 1e-6]
        if due:
            shown |= dict.fromkeys(due, frame.image if last is None else last)
        last = frame.image
    if last is None:
        raise MediaError(f"{path}: holds no frame between {start_seconds:.3f} s and {stop_seconds:.3f} s.")
    shown |= {instant: last for instant in wanted if instant not in shown}
    return {name: [shown[instant] for instant in moments] for name, moments in at.items()}


def scaled(frames: Sequence[Picture], short_side: int) -> list[Picture]:
    """The frames with a shorter side of at most `short_side`."""
    return [_scaled(frame, short_side) for frame in frames]


def _scaled(frame: Picture, short_side: int) -> Picture:
    height, width = frame.shape[:2]
    if min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    smaller: Picture = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return smaller


def conversation(ask: Ask, *, as_video: bool, answer: str | None = None) -> list[dict[str, Any]]:
    """Messages in the form of transformers' chat templates: frames first, then the words.

    As pictures, each frame is preceded by its time ("4.0 s:"), as the models with times in their video input have it.
    """
    content: list[dict[str, Any]] = []
    if as_video and len(ask.frames):
        content.append({"type": "video", "video": np.stack(list(ask.frames))})
    elif len(ask.frames) == 1:
        content.append({"type": "image", "image": ask.frames[0]})
    else:
        for seconds, frame in zip(ask.seconds, ask.frames, strict=True):
            content += [{"type": "text", "text": f"{seconds:.1f} s:"}, {"type": "image", "image": frame}]
    content.append({"type": "text", "text": ask.prompt})
    system = [{"role": "system", "content": [{"type": "text", "text": ask.system}]}] if ask.system else []
    given = [] if answer is None else [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    return [*system, {"role": "user", "content": content}, *given]


def to_inputs(
    processor: Any, asks: Sequence[Ask], *, as_video: bool, answers: Sequence[str] | None = None
) -> Mapping[str, Any]:
    """The batch as the model takes it (`input_ids` [b, n], `attention_mask`, pixels …).

    Without `answers` padded on the left and open for the model's answer; with them padded on the right, each
    conversation closed, for training.
    """
    given: Sequence[str | None] = answers if answers is not None else [None] * len(asks)
    talks = [conversation(ask, as_video=as_video, answer=answer) for ask, answer in zip(asks, given, strict=True)]
    images = [list(ask.frames) for ask in asks] if not as_video and any(len(ask.frames) for ask in asks) else None
    words = processor.apply_chat_template(
        [_without_frames(talk) for talk in talks], tokenize=False, add_generation_prompt=answers is None
    )
    arguments: dict[str, Any] = {"text": words, "padding": True, "return_tensors": "pt"}
    arguments["padding_side"] = "left" if answers is None else "right"
    if images is not None:
        arguments["images"] = images
    if as_video:
        arguments |= {"videos": [np.stack(list(ask.frames)) for ask in asks], "do_sample_frames": False}
        arguments["video_metadata"] = [_metadata(ask) for ask in asks]
    batch: Mapping[str, Any] = processor(**arguments)
    return batch


def _without_frames(talk: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The templates only need to know where a frame stands, not what it shows."""

    def words(part: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in part.items() if name in ("type", "text")}

    return [{**message, "content": [words(part) for part in message["content"]]} for message in talk]


def _metadata(ask: Ask) -> dict[str, Any]:
    """When the frames were taken, as transformers' video processors ask for it: of a video of 1000 frames a second."""
    numbers = [round(1000 * seconds) for seconds in ask.seconds]
    between = numbers[1] - numbers[0] if len(numbers) > 1 else 1000
    total = max(numbers[-1] + between - numbers[0], numbers[-1] + 1)
    return {"fps": 1000.0, "total_num_frames": total, "duration": total / 1000, "frames_indices": numbers}
