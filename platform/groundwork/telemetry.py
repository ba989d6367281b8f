"""Logs, progress and peak memory: one style for every command, always on standard error."""

from __future__ import annotations

import logging
import resource
import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

_LOG_INTERVAL_SECONDS = 60.0


def get_logger(name: str) -> logging.Logger:
    """A logger below the platform's root logger."""
    return logging.getLogger(f"cvx.{name}")


def configure_logging(*, verbose: bool = False) -> None:
    """Send the platform's log lines to standard error; called once, by a command's `main`."""
    root = logging.getLogger("cvx")
    if not root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"))
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


class Progress:
    """A bar on a terminal, one line a minute in a log; usable as a context manager.

    `update(done_more, clip="…")` advances and shows facts; the first and the last state are always shown.
    """

    def __init__(self, label: str, *, total: int | None, unit: str, initial: int = 0) -> None:
        self._label, self._unit, self._total, self._done = label, unit, total, initial
        self._started = self._last_line = time.monotonic()
        self._initial = initial
        self._facts = ""
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=label, unit=unit, initial=initial, dynamic_ncols=True, file=sys.stderr)
        else:
            self._line()

    def update(self, more: int = 1, **facts: object) -> None:
        """Advance by `more` units; `facts` are shown beside the count."""
        self._done += more
        self._facts = "  ".join(f"{name} {value}" for name, value in facts.items())
        if self._bar is not None:
            if self._facts:
                self._bar.set_postfix_str(self._facts, refresh=False)
            self._bar.update(more)
        elif time.monotonic() - self._last_line >= _LOG_INTERVAL_SECONDS:
            self._line()

    def set_total(self, total: int) -> None:
        """Say how many units there are, once that is known."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def add_total(self, more: int) -> None:
        """Say that there are more units than was known."""
        if more:
            self.set_total((self._total or 0) + more)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = self._last_line - self._started
        of_total = f"/{self._total}" if self._total is not None else ""
        rate = (self._done - self._initial) / elapsed if elapsed > 0.5 else 0.0
        left = ""
        if rate and self._total is not None and self._done < self._total:
            left = f", about {(self._total - self._done) / rate:.0f} s left"
        speed = f" ({rate:.2f} {self._unit}/s{left})" if rate else ""
        facts = f"  {self._facts}" if self._facts else ""
        get_logger("progress").info("%s: %d%s %s%s%s", self._label, self._done, of_total, self._unit, speed, facts)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        else:
            self._line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def peak_memory_bytes() -> int:
    """Largest resident size this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
