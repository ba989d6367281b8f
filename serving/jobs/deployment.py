"""The store as a Serve deployment: with SQLite one replica that owns the file, with Postgres any number; the client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from groundwork.storage import open_storage
from groundwork.telemetry import configure_logging
from serving.calls import retried
from serving.jobs.housekeeping import Housekeeping
from serving.jobs.job import STAGES, Event, Job, Lease, Orders, Stage
from serving.jobs.sql import SqlJobStore

_LONGEST_WAIT_SECONDS = 5.0
_LONGEST_STORY_SECONDS = 15.0
_OTHERS_SECONDS = 1.0  # how late news of another replica may come
_NEWS = ("create", "release", "hand_over", "complete", "fail")  # after these, someone who waits may go on

_SILENT = (
    "get",
    "page",
    "estimate",
    "facts",
    "quote",
    "due_deliveries",
    "expired",
    "count",
    "tallies",
    "timed",
    "unknown",
)  # these change nothing


@serve.deployment(name="Jobs", max_ongoing_requests=1000, graceful_shutdown_wait_loop_s=0.2)
class Jobs:
    """Calls the store beside its event loop and wakes waiting workers when there is work."""

    def __init__(
        self,
        database: str,
        *,
        results_uri: str,
        max_losses: int,
        slice_seconds: float,
        retention_seconds: float,
        history_seconds: float,
        webhook_secret_env: str | None,
        private_addresses: bool,
    ) -> None:
        configure_logging()
        self._store = SqlJobStore(
            database,
            max_losses=max_losses,
            slice_seconds=slice_seconds,
            retention_seconds=retention_seconds,
            history_seconds=history_seconds,
        )
        self._writer = ThreadPoolExecutor(4 if self._store.many_writers else 1, thread_name_prefix="jobs")
        self._news = asyncio.Condition()  # there may be work, or a lease was given back
        self._stories = asyncio.Condition()  # there are new events
        self._draining = False
        self._warm: set[Stage] = set()
        self._waking: Any = None
        keeper = Housekeeping(
            self.call,
            open_storage(results_uri),
            webhook_secret=os.environ.get(webhook_secret_env or ""),
            private_addresses=private_addresses,
            wake=self._wake_denoiser,
        )
        self._keeper = asyncio.create_task(keeper.run())

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Any method of `JobStore`."""
        answer = await self._in_writer(method, *args, **kwargs)
        if method in _NEWS:
            await _wake(self._news)
        if method not in _SILENT:
            await _wake(self._stories)
        return answer

    async def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        """`JobStore.claim` that waits a few seconds for work instead of being asked again and again."""
        self._warm.add(stage)
        stop = time.monotonic() + _LONGEST_WAIT_SECONDS
        while not self._draining:
            async with self._news:
                job: Job | None = await self._in_writer("claim", stage, worker=worker, lease_seconds=lease_seconds)
                left = stop - time.monotonic()
                if job is None and left > 0:
                    await _wait(self._news, min(left, await self._until_next_expiry(), self._patience))
                    continue
            await _wake(self._stories)
            return job
        return None

    async def renew(self, lease: Lease, *, stage: Stage, **report: Any) -> Orders:
        """`JobStore.renew`; while the service goes down the answer is to release."""
        self._warm.add(stage)
        orders: Orders = await self._in_writer("renew", lease, **report)
        if report.get("step") is not None or report.get("checkpoint") is not None:
            await _wake(self._stories)
        return orders.model_copy(update={"release": self._draining})

    async def cold(self) -> list[Stage]:
        """Stages from which no worker has been heard yet: their weights are still loading."""
        return [stage for stage in STAGES if stage not in self._warm]

    async def events(self, job_id: str, *, after: int) -> list[Event]:
        """`JobStore.events` that waits some seconds for one, so that a reader learns of it at once."""
        stop = time.monotonic() + _LONGEST_STORY_SECONDS
        async with self._stories:
            while True:
                events: list[Event] = await self._in_writer("events", job_id, after=after)
                left = stop - time.monotonic()
                if events or left <= 0:
                    return events
                await _wait(self._stories, min(left, 1.0 if self._draining else self._patience))
                if self._draining:
                    return []

    async def drain(self, *, timeout_seconds: float) -> bool:
        """Give out nothing more and wait until every lease is given back; whether that came to pass in time."""
        self._draining = True
        stop = time.monotonic() + timeout_seconds
        async with self._news:
            self._news.notify_all()
            while await self._in_writer("holds_leases"):
                left = stop - time.monotonic()
                if left <= 0:
                    return False
                await _wait(self._news, min(left, 1.0))
        return True

    async def check_health(self) -> None:
        """Serve replaces this replica when the database does not answer."""
        await self._in_writer("next_expiry")

    async def __del__(self) -> None:
        if hasattr(self, "_keeper"):
            self._keeper.cancel()
            await self._in_writer("close")
            self._writer.shutdown()

    async def _in_writer(self, method: str, *args: Any, **kwargs: Any) -> Any:
        call = partial(getattr(self._store, method), *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._writer, call)

    def _wake_denoiser(self) -> None:
        """A call that waits for a replica is what makes Serve start the first one; one such call is enough."""
        if self._draining or (self._waking is not None and not self._waking.done()):
            return
        context = serve.get_replica_context()
        denoiser = serve.get_deployment_handle("Denoiser", app_name=context.app_name)
        self._waking = asyncio.ensure_future(_answered(denoiser.wake.remote()))

    @property
    def _patience(self) -> float:
        """How long to wait for this replica's own news: others tell theirs through the database alone."""
        return _OTHERS_SECONDS if self._store.many_writers else _LONGEST_STORY_SECONDS

    async def _until_next_expiry(self) -> float:
        expiry = await self._in_writer("next_expiry")
        return _LONGEST_WAIT_SECONDS if expiry is None else max(0.1, expiry - time.time())


async def _answered(response: Any) -> None:
    with contextlib.suppress(RayActorError, RayServeException):
        await response


async def _wake(condition: asyncio.Condition) -> None:
    async with condition:
        condition.notify_all()


async def _wait(condition: asyncio.Condition, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(condition.wait(), seconds)


class JobsClient:
    """The store, as the other deployments see it: while its actor is replaced, calls wait and are made again.

    Every method of the store can be repeated safely, so a call whose answer was lost is simply made again.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Any method of `JobStore`."""
        return await retried(self._handle.call, method, *args, **kwargs)

    async def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        job: Job | None = await retried(self._handle.claim, stage, worker=worker, lease_seconds=lease_seconds)
        return job

    async def renew(self, lease: Lease, *, stage: Stage, **report: Any) -> Orders:
        orders: Orders = await retried(self._handle.renew, lease, stage=stage, **report)
        return orders

    async def cold(self) -> list[Stage]:
        stages: list[Stage] = await retried(self._handle.cold)
        return stages

    async def events(self, job_id: str, *, after: int) -> list[Event]:
        events: list[Event] = await retried(self._handle.events, job_id, after=after)
        return events
