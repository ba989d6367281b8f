"""What the routes do: requests become jobs, jobs become video objects; knows neither HTTP nor Ray."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any, Protocol

from groundwork.storage import Storage
from serving import results, scheduling
from serving.card import ModelCard, Size
from serving.errors import RequestError
from serving.jobs.job import Event, Job, QueueFacts, Stage
from serving.jobs.store import Order
from serving.protocol import (
    CreateVideo,
    Extras,
    Failure,
    ModelLimits,
    ModelObject,
    VideoDeleted,
    VideoList,
    VideoObject,
)
from serving.requests import settle


class Jobs(Protocol):
    """The job store, reached by the names of its methods."""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any: ...

    async def events(self, job_id: str, *, after: int) -> list[Event]: ...

    async def cold(self) -> list[Stage]: ...


class Prompts(Protocol):
    """The text encoder, as far as a request needs it."""

    async def accept(self, prompts: list[str]) -> None: ...


class Desk:
    """The service as its clients see it."""

    def __init__(
        self, jobs: Jobs, prompts: Prompts, *, card: ModelCard, storage: Storage, max_queued_jobs: int
    ) -> None:
        self._jobs, self._prompts, self._max_queued_jobs = jobs, prompts, max_queued_jobs
        self.card, self.storage = card, storage

    async def create(self, request: CreateVideo) -> VideoObject:
        """Accept a job. Raises RequestError 400, 404, 429; InputError for a prompt of too many tokens."""
        settings = settle(request, self.card)
        await self._prompts.accept([settings.prompt, settings.negative_prompt])
        facts = await self.facts()
        if not scheduling.accepts(facts, max_queued_jobs=self._max_queued_jobs):
            message = f"{facts.queued} jobs are waiting already; ask again later."
            raise RequestError(429, "queue_full", message, headers={"retry-after-ms": "5000", "retry-after": "5"})
        job: Job = await self._jobs.call("create", f"video_{secrets.token_hex(12)}", settings)
        return video_object(job, queue_position=facts.queued + facts.in_progress)

    async def retrieve(self, video_id: str) -> tuple[VideoObject, int]:
        """A video and when to ask again, in milliseconds. Raises JobNotFoundError."""
        job = await self._job(video_id)
        position = await self._position(job)
        poll_after_ms = scheduling.poll_after_ms(job, queue_position=position or 0, now=time.time())
        return video_object(job, queue_position=position), poll_after_ms

    async def page(self, *, after: str | None, limit: int, order: Order) -> VideoList:
        """One page of videos. Raises JobNotFoundError for an unknown `after`."""
        jobs, has_more = await self._jobs.call("page", after=after, limit=limit, order=order)
        data = [video_object(job, queue_position=None) for job in jobs]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=has_more)

    async def cancel(self, video_id: str) -> VideoObject:
        """Stop a job; a final one stays as it is. Raises JobNotFoundError."""
        job: Job = await self._jobs.call("cancel", video_id)
        return video_object(job, queue_position=None)

    async def delete(self, video_id: str) -> VideoDeleted:
        """Remove a job, live or final, with its files. Raises JobNotFoundError."""
        await self._jobs.call("delete", video_id)
        await asyncio.to_thread(self.storage.delete_tree, results.folder(video_id))
        return VideoDeleted(id=video_id)

    async def events(self, video_id: str, *, after: int) -> AsyncIterator[Event | None]:
        """A job's events behind number `after`, as they happen, to its end; None when there was none for a while.

        Raises JobNotFoundError.
        """
        is_final = False
        while not is_final:
            is_final = (await self._job(video_id)).is_final
            if is_final:
                events: list[Event] = await self._jobs.call("events", video_id, after=after)
            else:
                events = await self._jobs.events(video_id, after=after)
            for event in events:
                yield event
                after = event.number
            if not events:
                yield None

    async def finished(self, video_id: str, *, variant: str) -> Job:
        """A job whose file can be fetched. Raises JobNotFoundError, RequestError 400, 409."""
        if variant != "video":
            raise RequestError(400, "invalid_variant", f"variant={variant!r}: must be 'video'.", param="variant")
        job = await self._job(video_id)
        if job.status != "completed":
            reason = f"it has failed ({job.error.code})" if job.error else f"it is {job.status}"
            raise RequestError(409, "video_not_ready", f"Video {video_id} has no content: {reason}.", param="video_id")
        return job

    async def facts(self) -> QueueFacts:
        """How full the service is."""
        facts: QueueFacts = await self._jobs.call("facts")
        return facts

    async def ready(self) -> QueueFacts:
        """How full the service is, once every stage has a worker. Raises RequestError 503 before."""
        cold = await self._jobs.cold()
        if cold:
            message = f"The service is starting: no worker yet to {' and to '.join(cold)}."
            raise RequestError(503, "no_capacity", message, headers={"retry-after": "2"})
        return await self.facts()

    def model(self) -> ModelObject:
        """The model on offer."""
        limits = ModelLimits(
            sizes=[str(size) for size in self.card.sizes],
            num_frames=self.card.frame_counts(),
            default_num_frames=self.card.num_frames,
            fps=self.card.fps,
            default_steps=self.card.steps,
            max_steps=self.card.max_steps,
            default_guidance_scale=self.card.guidance_scale,
            max_prompt_tokens=self.card.max_text_tokens,
        )
        return ModelObject(id=self.card.name, x=limits)

    async def _job(self, video_id: str) -> Job:
        job: Job = await self._jobs.call("get", video_id)
        return job

    async def _position(self, job: Job) -> int | None:
        return None if job.is_final else int(await self._jobs.call("queue_position", job.id))


def video_object(job: Job, *, queue_position: int | None) -> VideoObject:
    """A job on the wire."""
    settings = job.settings
    extras = Extras(
        seed=settings.seed,
        num_frames=settings.num_frames,
        fps=settings.fps,
        duration_seconds=settings.num_frames / settings.fps,
        steps=settings.steps,
        step=job.step,
        stage=_stage(job),
        guidance_scale=settings.guidance_scale,
        negative_prompt=settings.negative_prompt,
        queue_position=queue_position,
        attempt=job.attempt,
        resumed_from_step=job.resumed_from_step,
        latent_sha256=job.latent_sha256,
        video_sha256=job.video_sha256,
        stage_seconds=job.stage_seconds,
        cancelled_at=None if job.cancelled_at is None else int(job.cancelled_at),
    )
    return VideoObject(
        id=job.id,
        model=settings.model,
        status=job.status,
        progress=scheduling.progress_percent(job),
        created_at=int(job.created_at),
        completed_at=None if job.completed_at is None else int(job.completed_at),
        prompt=settings.prompt,
        size=str(Size(width=settings.width, height=settings.height)),
        seconds=settings.seconds,
        error=Failure(code=job.error.code, message=job.error.message) if job.error else None,
        x=extras,
    )


def _stage(job: Job) -> Any:
    if job.is_final:
        return "done"
    return "waiting" if job.status == "queued" else job.stage
