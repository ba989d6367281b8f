"""The pull loop that denoiser and decoder share: claim a job, keep its lease alive, do the work, report."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from groundwork.telemetry import get_logger
from serving.errors import RequestError
from serving.jobs.job import Job, Lease, LeaseLostError, Orders, Stage, StoreDownError

T = TypeVar("T")
_PAUSE_SECONDS = 0.3
_logger = get_logger("serving.worker")


class Jobs(Protocol):
    """What a worker needs of the store."""

    async def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None: ...

    async def renew(self, lease: Lease, *, stage: Stage, **report: Any) -> Orders: ...

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any: ...


class Released(Exception):  # noqa: N818 - a way to leave, not an error
    """Raised by the work when it stops early with its state saved."""


class WorkerLostError(Exception):
    """Raised by the work when this worker can do no more. Its job goes on elsewhere when its lease has run out;
    with `job_error` it is the job's fault and ends it."""

    def __init__(self, message: str, job_error: Exception | None = None) -> None:
        super().__init__(message)
        self.message, self.job_error = message, job_error


class ComputeThread:
    """The one thread in which a replica computes, so that its event loop stays free for health checks."""

    def __init__(self, *, threads: int) -> None:
        # The number of threads is set from the computing thread: OpenMP keeps it per calling thread.
        self._executor = ThreadPoolExecutor(1, "compute", initializer=torch.set_num_threads, initargs=(threads,))

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` there, without gradients."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, _without_gradients, function, *args)

    def close(self) -> None:
        """Do not wait for what still runs."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass
class Held:
    """A job in the hands of a worker."""

    job: Job
    lease: Lease
    jobs: Jobs
    lease_seconds: float
    stopping: Callable[[], bool]
    checkpoint: str | None = None
    """The state that the job would be resumed from."""
    started: float = field(default_factory=time.monotonic)

    makes_room: bool = False
    """The job is given back so that another may pass."""

    async def report(
        self, *, step: int | None = None, step_seconds: float | None = None, checkpoint: str | None = None
    ) -> Orders:
        """Renew the lease and learn what to do; making room is told as a release. Raises LeaseLostError."""
        orders = await self.jobs.renew(
            self.lease,
            stage=self.job.stage,
            lease_seconds=self.lease_seconds,
            step=step,
            step_seconds=step_seconds,
            checkpoint=checkpoint,
        )
        self.makes_room = self.makes_room or orders.make_room
        return orders.model_copy(update={"release": orders.release or self.makes_room or self.stopping()})

    @property
    def seconds(self) -> float:
        """Since the job was taken up."""
        return time.monotonic() - self.started


class Worker:
    """Takes jobs of one stage, one at a time. `work` returns when the job was handed on, or raises.

    `check` raises WorkerLostError when no more jobs can be taken.
    """

    def __init__(
        self,
        jobs: Jobs,
        work: Callable[[Held], Awaitable[None]],
        *,
        stage: Stage,
        lease_seconds: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._jobs, self._work, self._stage, self._lease_seconds = jobs, work, stage, lease_seconds
        self._check = check
        self._stopping = False
        self.busy = False
        """Whether a job is at hand."""
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self.loop = asyncio.create_task(self._run())

    def check(self) -> None:
        """Raises what ended the loop, so that a health check replaces the replica."""
        if self.loop.done() and not self._stopping:
            self.loop.result()
            raise RuntimeError("the worker's loop has ended")

    async def stop(self) -> None:
        """Take nothing more; wait until the job at hand is done or given back with its state saved."""
        self._stopping = True
        await asyncio.gather(self.loop, return_exceptions=True)

    async def _run(self) -> None:
        while not self._stopping:
            self._check()
            try:
                job = await self._jobs.claim(self._stage, worker=self.name, lease_seconds=self._lease_seconds)
            except StoreDownError as error:
                _logger.warning("no work for now: %s", error.message)
                job = None
            if job is None:
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self.busy = True
                await self._do(job)
                self.busy = False

    async def _do(self, job: Job) -> None:
        lease = Lease(job_id=job.id, epoch=job.epoch)
        held = Held(job, lease, self._jobs, self._lease_seconds, lambda: self._stopping, job.checkpoint)
        heart = asyncio.create_task(_beat(held))
        said = {"job": job.id, "stage": self._stage, "attempt": job.attempt}
        _logger.info("job=%(job)s stage=%(stage)s attempt=%(attempt)d taken up", said)
        try:
            await self._work(held)
            _logger.info("job=%(job)s stage=%(stage)s left after %(seconds).1f s", said | {"seconds": held.seconds})
        except Released:
            await self._jobs.call("release", lease, preempted=held.makes_room)
            why = "to let another pass" if held.makes_room else "because the worker stops"
            _logger.info("job=%(job)s stage=%(stage)s given back %(why)s", said | {"why": why})
        except (LeaseLostError, StoreDownError) as error:
            _logger.warning("job=%s epoch=%d %s", job.id, job.epoch, error.message)
        except WorkerLostError as lost:
            _logger.warning("job=%s epoch=%d %s", job.id, job.epoch, lost.message)
            if lost.job_error is not None:
                await self._fail(lease, lost.job_error)
            raise
        except Exception as error:
            _logger.exception("job=%s failed", job.id)
            await self._fail(lease, error)
        finally:
            heart.cancel()

    async def _fail(self, lease: Lease, error: Exception) -> None:
        code = error.code if isinstance(error, RequestError) else "internal"
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            code = "out_of_memory"
        try:
            await self._jobs.call("fail", lease, code=code, message=str(error)[:500])
        except (LeaseLostError, StoreDownError) as lost:
            _logger.warning("job=%s %s", lease.job_id, lost.message)


async def _beat(held: Held) -> None:
    """Renew the lease three times in its length, however long a step takes."""
    while True:
        await asyncio.sleep(held.lease_seconds / 3)
        try:
            await held.report()
        except (LeaseLostError, StoreDownError):
            return  # the next report of the work itself finds out and stops it


def _without_gradients(function: Callable[..., T], *args: Any) -> T:
    with torch.inference_mode():
        return function(*args)
