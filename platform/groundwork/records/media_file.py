"""One row per clip that was cut into a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class MediaFile:
    """Where a clip's file lies below the dataset, and how it was made.

    `mode`: copy (coded frames taken as they are), smart (copied, with the ends encoded again), reencode (at the
    source's size and times, because of `why`), encode (at the size and rate of the clip's bucket). `copied_frames` of
    `num_frames` are bit for bit those of the source. `key` stands for all that the file was made from.
    """

    clip_id: str
    path: str
    bytes: int
    sha256: str
    mode: str
    why: str
    num_frames: int
    copied_frames: int
    key: str

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("path", pa.string()),
            ("bytes", pa.int64()),
            ("sha256", pa.string()),
            ("mode", pa.string()),
            ("why", pa.string()),
            ("num_frames", pa.int32()),
            ("copied_frames", pa.int32()),
            ("key", pa.string()),
        ]
    )
