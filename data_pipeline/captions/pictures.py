"""An ask becomes messages of OpenAI's chat format: frames as JPEG data URLs with their times between them."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from data_pipeline.captions.asks import Ask


def chat_messages(ask: Ask, *, quality: int) -> list[dict[str, Any]]:
    """System message, if any, and one user message. Words alone are sent as a string."""
    system = [{"role": "system", "content": ask.system}] if ask.system else []
    if not len(ask.frames):
        return [*system, {"role": "user", "content": ask.prompt}]
    content: list[dict[str, Any]] = []
    for seconds, frame in zip(ask.seconds, ask.frames, strict=True):
        if len(ask.frames) > 1:
            content.append({"type": "text", "text": f"{seconds:.1f} s:"})
        content.append({"type": "image_url", "image_url": {"url": data_url(frame, quality=quality)}})
    content.append({"type": "text", "text": ask.prompt})
    return [*system, {"role": "user", "content": content}]


def data_url(frame: UInt8[np.ndarray, "h w 3"], *, quality: int) -> str:
    """The frame as a JPEG inside a URL."""
    written, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written, f"a frame of {frame.shape} cannot be written as JPEG"
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
