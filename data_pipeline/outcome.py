"""What became of one unit of work, as a row that travels through Ray."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.failures import LASTING

OK, FAILED, ABORTED = "ok", "failed", "aborted"


@dataclass(frozen=True)
class Outcome:
    """`key`: a video's or clip's id, or that of a part of a video. `aborted`: the output cannot be written, the whole
    run must stop. `num_parts`: how many parts the video has that this one is of. `film_seconds`: how much film
    was measured now. `stage`: where a clip failed; empty: encode."""

    key: str
    status: str
    reason: str = ""
    detail: str = ""
    num_parts: int = 1
    film_seconds: float = field(default=0.0, compare=False)
    stage: str = ""

    @property
    def lasting(self) -> bool:
        """Whether a later run would give the same."""
        return self.status == OK or self.reason in LASTING


def to_row(value: Any) -> dict[str, str]:
    """Plain data as a row of one JSON column: Ray never has to guess a type."""
    return {"payload": json.dumps(value)}
