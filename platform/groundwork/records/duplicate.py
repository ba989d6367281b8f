"""One row per clip that belongs to a group of near-duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Duplicate:
    """`group` is the least clip_id of the group; `rank` 0 is its best member, which stays if it is kept at all.

    `representative`: the best kept member, or the best one where none is kept; a clip of that member's video represents
    itself. `similarity` (0 to 1) and
    `offset_seconds` (this clip's t is the other's t + offset) compare with the representative; where the two were not
    matched directly, similarity is that with the nearest member and the offset is null. `kind`: hash or embedding.
    """

    clip_id: str
    video_id: str
    group: str
    rank: int
    representative: str
    similarity: float
    offset_seconds: float | None
    kind: str

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("video_id", pa.string()),
            ("group", pa.string()),
            ("rank", pa.int32()),
            ("representative", pa.string()),
            ("similarity", pa.float64()),
            ("offset_seconds", pa.float64()),
            ("kind", pa.string()),
        ]
    )
