"""A stage's code, settings and model become one short hash; what it keys stays valid until one of them changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

DIGITS = 24
"""Hex digits of an id: 96 bits, no collision to fear among billions of clips."""


def short_hash(*parts: object) -> str:
    """The first 24 hex digits of the sha256 over the parts' JSON (sorted keys)."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def stage_fingerprint(code: Sequence[ModuleType], settings: Any) -> str:
    """Hash of the modules' source and the settings (anything JSON can say)."""
    return short_hash([source_hash(module) for module in code], settings)


def source_hash(module: ModuleType) -> str:
    """sha256 of a module's source file. Raises ValueError for a module without one."""
    if module.__file__ is None:
        raise ValueError(f"module {module.__name__!r} has no source file")
    return hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
