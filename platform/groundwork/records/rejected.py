"""One row per source or clip that left the pipeline before it became training data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Rejected:
    """`clip_id` is empty where a whole video left. `stage` is the step that let it go; `failed` marks errors."""

    video_id: str
    clip_id: str
    uri: str
    stage: str
    reason: str
    detail: str
    failed: bool

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("video_id", pa.string()),
            ("clip_id", pa.string()),
            ("uri", pa.string()),
            ("stage", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("failed", pa.bool_()),
        ]
    )
