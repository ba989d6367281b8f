"""One row per clip and captioner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa


@dataclass(frozen=True)
class Caption:
    """What a clip shows, in words, and which model in which version said so.

    `status`: ok, repaired (`repairs` says how) or rejected (`reason` says why; `text` is empty then). `draft` is what
    the model wrote, where that is not the text. `frame_captions` with their `frame_seconds` from the clip's beginning
    may be empty. `tries`: how often it was asked; tokens and `cost` (in the currency of the recipe's prices) are those
    of all tries and parts. `made_by`: a JSON object with the settings, prompts and weights of each model asked.
    """

    clip_id: str
    text: str
    short_text: str
    frame_captions: list[str]
    model: str
    version: str
    status: str = "ok"
    reason: str = ""
    repairs: list[str] = field(default_factory=list)
    draft: str = ""
    frame_seconds: list[float] = field(default_factory=list)
    tries: int = 1
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0
    made_by: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("text", pa.string()),
            ("short_text", pa.string()),
            ("frame_captions", pa.list_(pa.string())),
            ("model", pa.string()),
            ("version", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("repairs", pa.list_(pa.string())),
            ("draft", pa.string()),
            ("frame_seconds", pa.list_(pa.float64())),
            ("tries", pa.int32()),
            ("input_tokens", pa.int64()),
            ("output_tokens", pa.int64()),
            ("cost", pa.float64()),
            ("made_by", pa.string()),
        ]
    )
