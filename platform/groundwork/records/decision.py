"""One row per clip and policy: kept or not, and what decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Decision:
    """`reason` is empty for a kept clip; else the rule that rejected it, with the score and threshold it compared."""

    clip_id: str
    kept: bool
    reason: str
    score_name: str
    score: float | None
    threshold: float | None

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("kept", pa.bool_()),
            ("reason", pa.string()),
            ("score_name", pa.string()),
            ("score", pa.float64()),
            ("threshold", pa.float64()),
        ]
    )
