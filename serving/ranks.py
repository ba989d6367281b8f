"""A denoiser's ranks: actors that compute one job's steps together, driven by one call a step from the replica.

The replica itself only drives. It holds no device, so health checks never wait for one, and it learns of a rank's
death at once. Between calls the ranks wait for the next one and for nothing else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from cogvideox.ranks import Split, join
from groundwork.telemetry import configure_logging
from serving.model import DenoiseModel
from serving.stepper import InThread, Stepper
from serving.worker import ComputeThread, WorkerLostError

DRIVER_CPUS = 0.1
"""Logical CPUs that a replica reserves beside its ranks."""


@dataclass(frozen=True)
class RankShares:
    """How many ranks there are, and what each takes of the cluster."""

    split: Split
    num_cpus: float
    num_gpus: float

    @property
    def bundles(self) -> list[dict[str, float]]:
        """For the placement group of a replica: the driver's, then one per rank."""
        each = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        own = {name: amount for name, amount in each.items() if amount}
        return [{"CPU": DRIVER_CPUS}, *(dict(own) for _ in range(self.split.ranks))]


class Rank:
    """One of the processes. Control runs on its event loop, all arithmetic in one thread."""

    def __init__(
        self, weights: str, *, split: Split, rank: int, meet: str, threads: int, loras: Mapping[str, str]
    ) -> None:
        configure_logging()
        groups = join(split, rank=rank, meet=Path(meet))
        stepper = Stepper(DenoiseModel.load(weights, loras=loras, groups=groups))
        self._compute = InThread(stepper, ComputeThread(threads=threads))

    async def call(self, method: str, *args: Any) -> Any:
        """A method of `Stepper`."""
        return await self._compute.first(method, *args)

    async def ready(self) -> None:
        """That it answers is all that is wanted."""

    async def watch(self) -> None:
        """Never answers: its caller learns when this process is gone."""
        await asyncio.Event().wait()


class RankActors:
    """A `Compute` of several ranks. One call at a time; after a loss there is none any more.

    A rank that dies takes the others with it: they may wait for it in the middle of a step. Whoever checks learns of
    it, and the replica is replaced, its ranks with it.
    """

    def __init__(self, weights: str, *, ranks: RankShares, threads: int, loras: Mapping[str, str]) -> None:
        """Returns when all are ready. Raises WorkerLostError with the words of the first that fails."""
        self._folder = tempfile.TemporaryDirectory(prefix="cvx-ranks-")
        actor = ray.remote(Rank).options(num_cpus=ranks.num_cpus, num_gpus=ranks.num_gpus)
        common = {"split": ranks.split, "meet": f"{self._folder.name}/meet", "threads": threads, "loras": dict(loras)}
        self._ranks = [actor.remote(weights, rank=rank, **common) for rank in range(ranks.split.ranks)]
        starting = [rank.ready.remote().future() for rank in self._ranks]
        started, _ = concurrent.futures.wait(starting, return_when=concurrent.futures.FIRST_EXCEPTION)
        failed = next((error for one in started if (error := one.exception()) is not None), None)
        if failed is not None:
            raise WorkerLostError(f"a rank does not start: {failed}")
        self._watches = [asyncio.ensure_future(_answer(rank.watch.remote())) for rank in self._ranks]
        self._turn = asyncio.Lock()
        self._lost: str | None = None

    async def first(self, method: str, *args: Any) -> Any:
        """Call it on the first rank. Raises what it raises there, WorkerLostError."""
        (answer,) = await self._call(self._ranks[:1], method, args)
        return _value(answer)

    async def everywhere(self, method: str, *args: Any) -> Any:
        """Call it on all ranks, wait for all. Raises what the first of them raises, WorkerLostError."""
        if method == "end" and self._lost is not None:
            return None
        answers = [_value(answer) for answer in await self._call(self._ranks, method, args)]
        return answers[0]

    async def together(self, method: str, *args: Any) -> Any:
        """Call it on all ranks. What one raises leaves the others waiting for it: always WorkerLostError."""
        return (await self._call(self._ranks, method, args, together=True))[0]

    def check(self) -> None:
        """Raises WorkerLostError when a rank is lost."""
        gone = [number for number, watch in enumerate(self._watches) if watch.done()]
        if gone and self._lost is None:
            self._lost = f"rank {gone[0]} of {len(self._ranks)} has died"
        if self._lost is not None:
            raise WorkerLostError(self._lost)

    def close(self) -> None:
        """End the ranks, whatever they do."""
        for watch in self._watches:
            watch.cancel()
        for rank in self._ranks:
            ray.kill(rank)
        self._folder.cleanup()

    async def _call(self, ranks: list[Any], method: str, args: tuple[Any, ...], *, together: bool = False) -> list[Any]:
        """Every rank's answer, exceptions among them unless they compute `together`."""
        async with self._turn:  # all ranks take calls in one order
            self.check()
            shared = [ray.put(argument) for argument in args]
            answers = [_answer(rank.call.remote(method, *shared)) for rank in ranks]
            called = asyncio.gather(*answers, return_exceptions=not together)
            await asyncio.wait([called, *self._watches], return_when=asyncio.FIRST_COMPLETED)
            if not called.done():
                called.cancel()
                self.check()
            try:
                return list(called.result())
            except RayError as error:
                self._lost = f"the ranks cannot go on: {error}"
                raise WorkerLostError(self._lost, _jobs_fault(error)) from error


async def _answer(reference: Any) -> Any:
    return await reference


def _value(answer: Any) -> Any:
    if isinstance(answer, RayTaskError):
        raise answer.cause
    if isinstance(answer, RayError):
        raise WorkerLostError(f"a rank is lost: {answer}") from answer
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _jobs_fault(error: Exception) -> Exception | None:
    """Only memory: of everything else, a broken connection first of all, another replica may know nothing."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, MemoryError | torch.OutOfMemoryError) else None
