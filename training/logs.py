"""Worker 0's records of a run: rows, curves, and the progress file that the driver reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from groundwork.errors import StorageError
from groundwork.storage import Storage
from groundwork.telemetry import get_logger
from training.exchange import Said
from training.metrics import Curves, StepMetrics, read_metrics, speed, write_metrics
from training.recipe import TrainRecipe
from training.watch import Watch

PROGRESS = "work/progress.json"
STOP = "work/stop"
"""The driver asks for an early end by writing this file: the workers save and leave."""
_PROGRESS_SECONDS = 0.5
_WARNINGS_SHOWN = 20


class Logs:
    """What was written past the checkpoint at `step` is dropped at the start."""

    def __init__(self, run: Storage, recipe: TrainRecipe, *, step: int, hosts: Sequence[str]) -> None:
        self._run = run
        self._total, self._first, self._began = recipe.num_steps, step, time.monotonic()
        self._shown = 0.0
        self._price = recipe.workers.price_per_hour
        self.stop_requested = False
        self._rows = read_metrics(run, up_to_step=step)
        if len(self._rows) != step:
            get_logger("train").warning("metrics of %d steps are missing", step - len(self._rows))
        self._curves = Curves(run, first_step=step + 1)
        self._watch = Watch(hosts, self._rows)
        self._warnings: list[str] = []

    def warn(self, text: str) -> None:
        """Have the driver log it, which people see: what a worker logs they mostly do not."""
        self._warnings.append(text)

    def add(self, row: StepMetrics, said: Sequence[Said]) -> None:
        """Take note of a step; now and then show how far it is, and see whether an early end is asked for."""
        self._rows.append(row)
        self._warnings += self._watch.add(row, said)
        self._curves.add(row)
        now = time.monotonic()
        if now - self._shown < _PROGRESS_SECONDS and row.step < self._total:
            return
        self._shown = now
        recent = self._rows[-20:]
        facts = {
            "step": row.step,
            "total": self._total,
            "first_step": self._first,
            "workers": row.workers,
            "loss": sum(kept.loss for kept in recent) / len(recent),
            "steps_per_second": (row.step - self._first) / max(now - self._began, 1e-6),
            "speed": speed(self._rows, price_per_hour=self._price),
            "warnings": self._warnings[-_WARNINGS_SHOWN:],
        }
        with suppress(StorageError):  # a full disk is reported by the checkpoint
            self._run.write_json(PROGRESS, facts)
        self.stop_requested = self._run.exists(STOP)

    def records(self) -> Callable[[], None]:
        """A function, for any thread, that makes the rows and curves up to now durable."""
        rows = tuple(self._rows)

        def write() -> None:
            write_metrics(self._run, rows)
            self._curves.save()

        return write
