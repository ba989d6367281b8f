"""One row per clip, kept or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Clip:
    """A span of one shot: `start_pts` inclusive, `stop_pts` exclusive, in units of time_base_num/time_base_den s.

    Seconds count from the video's first time stamp; `num_frames` are source frames in the span; size as displayed.
    """

    clip_id: str
    video_id: str
    start_pts: int
    stop_pts: int
    time_base_num: int
    time_base_den: int
    start_seconds: float
    stop_seconds: float
    num_frames: int
    width: int
    height: int
    fps: float

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("video_id", pa.string()),
            ("start_pts", pa.int64()),
            ("stop_pts", pa.int64()),
            ("time_base_num", pa.int64()),
            ("time_base_den", pa.int64()),
            ("start_seconds", pa.float64()),
            ("stop_seconds", pa.float64()),
            ("num_frames", pa.int32()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("fps", pa.float64()),
        ]
    )
