"""One row per distinct text that was embedded besides the clips' first captions."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa


def text_id(text: str) -> str:
    """The key of a text: 24 hex digits of its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Text:
    """`text_embedding`: bf16, `text_shape` = [n, d]; the same for every clip that carries the text."""

    text_id: str
    text: str
    text_embedding: bytes
    text_shape: list[int]

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("text_id", pa.string()),
            ("text", pa.string()),
            ("text_embedding", pa.large_binary()),
            ("text_shape", pa.list_(pa.int32())),
        ]
    )
