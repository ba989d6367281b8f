"""One row per source video, readable or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Video:
    """A source before cutting. `status`: ok, failed or duplicate; `reason`, `detail` say why, or where a readable one
    is damaged. Size as displayed. `metadata`: a JSON object of what a manifest says of it, empty for nothing."""

    video_id: str
    uri: str
    bytes: int
    container: str
    codec: str
    fps: float
    duration_seconds: float
    width: int
    height: int
    licence: str
    status: str
    reason: str
    detail: str
    metadata: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("video_id", pa.string()),
            ("uri", pa.string()),
            ("bytes", pa.int64()),
            ("container", pa.string()),
            ("codec", pa.string()),
            ("fps", pa.float64()),
            ("duration_seconds", pa.float64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("licence", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("detail", pa.string()),
            ("metadata", pa.string()),
        ]
    )
