"""A snapshot of the training's state becomes a durable checkpoint in the background, while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch.distributed as dist
from torch import Tensor

from groundwork.errors import StorageError
from groundwork.storage import Storage
from training import checkpoint


@dataclass(frozen=True)
class Snapshot:
    """What one worker saves: copies on the host, which training does not touch any more."""

    step: int
    state: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Saver:
    """At most one save at a time, in a thread with a process group of its own: the workers' collectives in it must not
    mix with those of training. All workers make one and call `begin` and `settle` at the same steps.

    `report` is told of each checkpoint once it is durable, equally often on every worker. `patience` is how many
    seconds a worker waits for the others to write. A context manager: what was begun is written before it is left.
    """

    def __init__(
        self, run: Storage, *, keep: int, patience: float, report: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> None:
        self._run, self._keep, self._report = run, keep, report
        self._rank, self._world = dist.get_rank(), dist.get_world_size()
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=patience))
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="save")
        self._pending: Future[dict[str, Any]] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether a save was begun and not settled: the same on every worker."""
        return self._pending is not None

    @property
    def is_done(self) -> bool:
        """Whether this worker's part in the pending save is over, well or badly."""
        return self._pending is not None and self._pending.done()

    def begin(self, taken: Snapshot, *, records: Callable[[], None], metrics: dict[str, Any]) -> None:
        """Settle the save before, then write this one in the background and return.

        Worker 0 calls `records` once all parts are there and before the checkpoint counts. `metrics` are what `report`
        is told. Raises StorageError on every worker when the save before failed.
        """
        self.settle()
        self._pending = self._pool.submit(self._write, taken, records, metrics)

    def settle(self) -> None:
        """Wait for the pending save, if there is one, and report it. Raises StorageError on every worker when one of
        them could not write."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._report(pending.result())

    def _write(self, taken: Snapshot, records: Callable[[], None], metrics: dict[str, Any]) -> dict[str, Any]:
        """Every worker's part, then (worker 0) the records and the marker. All end alike, so that none waits."""
        problem, part = "", None
        try:
            part = checkpoint.write_part(self._run, taken.state, step=taken.step, rank=self._rank, world=self._world)
        except StorageError as error:
            problem = str(error)
        parts = self._all_or_none(part, problem)
        problem = ""
        if self._rank == 0:
            try:
                records()
                checkpoint.mark_complete(self._run, parts, step=taken.step, facts=taken.facts)
                checkpoint.prune(self._run, keep=self._keep, newest=taken.step)
            except StorageError as error:
                problem = str(error)
        self._all_or_none(None, problem)
        return metrics

    def _all_or_none(self, part: checkpoint.PartFile | None, problem: str) -> list[checkpoint.PartFile]:
        answers: list[Any] = [None] * self._world
        dist.all_gather_object(answers, (part, problem), group=self._group)
        for _, failure in answers:
            if failure:
                raise StorageError(*failure.split("\n  ", 1))
        return [answer for answer, _ in answers if answer is not None]

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        with suppress(ValueError):  # the process group as a whole is gone
            dist.destroy_process_group(self._group)
