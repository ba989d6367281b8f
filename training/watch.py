"""What the last steps showed becomes warnings that say what to do: slow workers, starved readers, leaping losses."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median, median_low

import torch

from training.exchange import Said
from training.guard import GradientGuard
from training.metrics import StepMetrics

WINDOW = 50
"""Steps that are looked at together; each kind of warning comes at most once in so many."""
_SLOW = 1.5  # times the median worker
_STARVED = 0.10
_SIGMAS = 5.0


class Stopwatch:
    """Seconds that blocks of work took in sum: on a GPU by its own clock, without waiting for it."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._spans: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what is done in the block."""
        if self._on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            begin.record()
            yield
            end.record()
            self._spans.append((begin, end))
        else:
            began = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - began

    def seconds(self) -> float:
        """The sum so far; on a GPU its work must have been waited for."""
        return self._seconds + float(sum(begin.elapsed_time(end) for begin, end in self._spans)) / 1e3


class Watch:
    """Looks at steps as they come. `hosts` are the workers' machines, `before` the steps of earlier starts."""

    def __init__(self, hosts: Sequence[str], before: Sequence[StepMetrics] = ()) -> None:
        self._hosts = hosts
        self._window: list[tuple[StepMetrics, Sequence[Said]]] = []
        self._stage, self._quiet_until = "", 0
        self._losses = GradientGuard(clip=math.inf, sigmas=_SIGMAS)
        for row in before:
            self._leap(row)

    def add(self, row: StepMetrics, said: Sequence[Said]) -> list[str]:
        """Take note of a step; returns the warnings that it gives rise to."""
        found = []
        leap = self._leap(row)
        if leap and row.step >= self._quiet_until:
            self._quiet_until = row.step + WINDOW
            found.append(leap)
        self._window.append((row, said))
        if len(self._window) == WINDOW:
            found += self._slow_workers() + self._starved()
            self._window = []
        return found

    def _leap(self, row: StepMetrics) -> str:
        if row.stage != self._stage:  # other clips have other losses
            self._stage, self._losses = row.stage, GradientGuard(clip=math.inf, sigmas=_SIGMAS)
        bound, mean = self._losses.bound, self._losses.mean
        self._losses.add(row.loss)
        if row.loss <= bound:
            return ""
        return (
            f"step {row.step}: a loss of {row.loss:.3g} leaps out of the recent ones (mean {mean:.3g}, "
            f"{_SIGMAS:g} standard deviations reach {bound:.3g}). What was in it: train explain --step {row.step}."
        )

    def _slow_workers(self) -> list[str]:
        """Workers that compute longer than the median one in the median step; their packs are alike over a window."""
        usual = [median(said[rank].computing for _, said in self._window) for rank in range(len(self._hosts))]
        bound = _SLOW * median_low(usual)
        return [
            f"worker {rank} on {self._hosts[rank]} is slow: {seconds:.3g} s of computing in a step where others take "
            f"{median_low(usual):.3g} s, over the last {WINDOW} steps. All wait for it: look at that machine."
            for rank, seconds in enumerate(usual)
            if seconds > bound
        ]

    def _starved(self) -> list[str]:
        waiting = sum(row.waiting_seconds for row, _ in self._window)
        share = waiting / (waiting + sum(row.seconds for row, _ in self._window))
        if share <= _STARVED:
            return []
        return [
            f"{share:.0%} of the last {WINDOW} steps went by waiting for clips to be read: put the dataset on faster "
            "storage or nearer to the workers, and see that each has a CPU to spare (workers.cpus)."
        ]
