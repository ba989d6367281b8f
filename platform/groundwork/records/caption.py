"""One row per clip and captioner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Caption:
    """What a clip shows, in words, and which model in which version said so. `frame_captions` may be empty."""

    clip_id: str
    text: str
    short_text: str
    frame_captions: list[str]
    model: str
    version: str

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("text", pa.string()),
            ("short_text", pa.string()),
            ("frame_captions", pa.list_(pa.string())),
            ("model", pa.string()),
            ("version", pa.string()),
        ]
    )
