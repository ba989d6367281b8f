"""A captioner of known cost, for benchmarks and for runs that are killed: it sleeps, then says what it saw."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipeline.captions.asks import Answer, Ask, Sampling
from data_pipeline.captions.settings import ModelSettings

SECONDS, LOG = "SLOW_CAPTIONER_SECONDS", "SLOW_CAPTIONER_LOG"
"""Names of environment variables: how long a batch takes, and a file to which each batch adds a line with the monotonic
times of its begin and end and the number of its asks."""


class SlowModel:
    """One batch at a time, as on a GPU."""

    version = "slow 1"

    def __init__(self, settings: ModelSettings, *, device: str) -> None:
        self._seconds = float(os.environ.get(SECONDS, "0"))
        self._log = os.environ.get(LOG, "")
        self._busy = threading.Lock()

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        with self._busy:
            began = time.monotonic()
            time.sleep(self._seconds)
            if self._log:
                with Path(self._log).open("a") as file:
                    file.write(f"{began} {time.monotonic()} {len(asks)}\n")
        return [answer_of(ask) for ask in asks]


def answer_of(ask: Ask) -> Answer:
    """A caption that keeps every rule and tells one clip from another by its light."""
    light = [int(frame.mean()) for frame in ask.frames]
    words = ["dark" if value < 85 else "dim" if value < 170 else "bright" for value in light[:1]]
    text = f"A {words[0] if words else 'quiet'} place is seen from near the ground, and then from further away."
    return Answer(text, input_tokens=10 * len(ask.frames), output_tokens=len(text.split()))


def slow(settings: ModelSettings, *, device: str) -> Any:
    """`model: support.slow_captioner:slow` in a recipe."""
    return SlowModel(settings, device=device)
