"""Wall seconds and peak memory of a stage, counted over this process and all that it started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

_INTERVAL_SECONDS = 0.5


@dataclass
class Usage:
    """Filled when the block that measures it ends."""

    seconds: float = 0.0
    peak_bytes: int = 0
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self) -> None:
        """Sample until the block ends."""
        while not self._stop.wait(_INTERVAL_SECONDS):
            self.peak_bytes = max(self.peak_bytes, tree_bytes())


@contextmanager
def measured() -> Iterator[Usage]:
    """Measure the block."""
    usage, started = Usage(), time.monotonic()
    watcher = threading.Thread(target=usage.watch, daemon=True)
    watcher.start()
    try:
        yield usage
    finally:
        usage._stop.set()
        watcher.join()
        usage.seconds = time.monotonic() - started


def tree_bytes() -> int:
    """Memory of this process and its descendants, shared pages counted once (PSS where the kernel tells it)."""
    me = psutil.Process()
    return sum(_bytes_of(process) for process in [me, *me.children(recursive=True)])


def _bytes_of(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(getattr(full, "pss", full.rss))
