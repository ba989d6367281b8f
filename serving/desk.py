"""What the routes do: requests become jobs, jobs become video objects; knows neither HTTP nor Ray."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from groundwork.storage import Storage
from groundwork.telemetry import get_logger
from serving import addresses, results, scheduling
from serving.answers import model_object, video_object
from serving.card import ModelCard, Size
from serving.errors import RequestError
from serving.jobs.job import (
    STAGES,
    Accepted,
    Event,
    Job,
    JobSettings,
    JobTerms,
    KeyReusedError,
    QueueFacts,
    RefusedError,
    Stage,
)
from serving.jobs.store import Order
from serving.keys import ANYONE, Client
from serving.metrics import exposition
from serving.protocol import CreateVideo, ModelObject, Quote, RemixVideo, VideoDeleted, VideoList, VideoObject
from serving.references import ReferenceFile, checked
from serving.requests import settle
from serving.scheduling import Estimate, Limits
from serving.upsampling import Upsampling, write_out

MOST_REFERENCE_BYTES = 64 << 20
_QUOTE_SECONDS = 60.0
_logger = get_logger("serving.desk")


class Jobs(Protocol):
    """The job store, reached by the names of its methods."""

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any: ...

    async def events(self, job_id: str, *, after: int) -> list[Event]: ...

    async def cold(self) -> list[Stage]: ...


class Prompts(Protocol):
    """The text encoder, as far as a request needs it."""

    async def accept(self, prompts: list[str]) -> None: ...


@dataclass(frozen=True)
class Rules:
    """What this service allows."""

    limits: Limits = field(default_factory=Limits)
    upsampling: Upsampling | None = None
    webhooks: bool = False
    """Whether there is a secret to sign with."""
    awaited: tuple[Stage, ...] = STAGES
    """Stages that need a worker before the service is ready."""
    private_addresses: bool = False
    """Whether `image_url` and webhooks may lead into private networks."""


@dataclass(frozen=True)
class Asked:
    """A request together with what came beside its fields."""

    body: CreateVideo
    file: bytes | None = None
    """The part `input_reference` of a form."""
    idempotency_key: str | None = None
    retried: bool = False
    """The client says that it is repeating itself."""
    client: Client = ANYONE
    remixed_from: str | None = None


class Desk:
    """The service as its clients see it."""

    def __init__(
        self, jobs: Jobs, prompts: Prompts, *, card: ModelCard, storage: Storage, rules: Rules | None = None
    ) -> None:
        self._jobs, self._prompts, self._rules = jobs, prompts, rules or Rules()
        self.card, self.storage = card, storage

    async def create(self, asked: Asked) -> tuple[VideoObject, bool]:
        """Accept a job, or find the one that an equal request made: the video, and whether it was there before.

        Raises RequestError 400, 404, 409, 413, 429, 503; InputError for a prompt of too many tokens.
        """
        settings, terms, reference = await self._agreed(asked)
        job_id = f"video_{secrets.token_hex(12)}"
        if reference is not None:
            await asyncio.to_thread(self.storage.write_bytes, results.reference_file(job_id), reference)
        try:
            accepted: Accepted = await self._jobs.call(
                "create",
                job_id,
                settings,
                terms,
                limits=asked.client.limits(self._rules.limits),
                quote_id=asked.body.quote_id,
                retried=asked.retried,
            )
        except (RefusedError, KeyReusedError) as error:
            await self._drop(job_id, reference)
            raise await self._refused(error) from error
        if accepted.job.id != job_id:
            await self._drop(job_id, reference)
        made = "found again" if accepted.replayed else "accepted"
        _logger.info("job=%s owner=%s %s", accepted.job.id, asked.client.name or "-", made)
        return await self._video(accepted.job), accepted.replayed

    async def quote(self, asked: Asked) -> Quote:
        """What the job would cost and when it would be done; nothing is begun. Raises as `create` does."""
        settings, terms, _ = await self._agreed(asked)
        quote_id = f"quote_{secrets.token_hex(12)}"
        limits = asked.client.limits(self._rules.limits)
        try:
            seconds, expected = await self._jobs.call(
                "quote", quote_id, settings, terms, limits=limits, seconds=_QUOTE_SECONDS
            )
        except RefusedError as error:
            raise await self._refused(error) from error
        return Quote(
            id=quote_id,
            expires_at=int(time.time() + _QUOTE_SECONDS),
            denoise_pflop=terms.step_tflop * settings.steps_to_run / 1000,
            gpu_seconds=seconds,
            wait_seconds=expected.wait_seconds,
            eta_seconds=expected.eta_seconds,
            queue_position=expected.position,
            deadline_met=None if terms.deadline is None else True,
        )

    async def remix(self, video_id: str, change: RemixVideo, asked: Asked) -> tuple[VideoObject, bool]:
        """The same settings and seed with another prompt. Raises JobNotFoundError, and as `create` does."""
        job = await self._job(video_id, asked.client)
        old = job.settings
        body = asked.body.model_copy(
            update={
                "prompt": change.prompt,
                "negative_prompt": old.negative_prompt,
                "size": f"{old.width}x{old.height}",
                "num_frames": old.num_frames,
                "fps": old.fps,
                "num_inference_steps": old.steps,
                "guidance_scale": old.guidance_scale,
                "seed": old.seed,
                "scheduler": old.sampler,
                "loras": old.adapters,
                "strength": old.reference.strength if old.reference else 0.8,
            }
        )
        file = None
        if old.reference is not None:
            name = results.reference_file(video_id)
            if not await asyncio.to_thread(self.storage.exists, name):
                message = f"What video {video_id} started from is gone."
                raise RequestError(410, "result_expired", message, param="video_id")
            file = await asyncio.to_thread(self.storage.read_bytes, name)
        again = Asked(body, file, asked.idempotency_key, asked.retried, asked.client, remixed_from=video_id)
        return await self.create(again)

    async def retrieve(self, video_id: str, client: Client = ANYONE) -> tuple[VideoObject, int]:
        """A video and when to ask again, in milliseconds. Raises JobNotFoundError."""
        job = await self._job(video_id, client)
        expected = await self._expected(job)
        eta = None if expected is None else expected.eta_seconds.p50
        return video_object(job, expected), scheduling.poll_after_ms(job, eta_seconds=eta)

    async def page(self, *, after: str | None, limit: int, order: Order, client: Client = ANYONE) -> VideoList:
        """One page of videos. Raises JobNotFoundError for an unknown `after`."""
        jobs, has_more = await self._jobs.call("page", after=after, limit=limit, order=order, owner=client.owner)
        data = [video_object(job) for job in jobs]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        return VideoList(data=data, first_id=first, last_id=last, has_more=has_more)

    async def cancel(self, video_id: str, client: Client = ANYONE) -> VideoObject:
        """Stop a job; a final one stays as it is. Raises JobNotFoundError."""
        job: Job = await self._jobs.call("cancel", video_id, owner=client.owner)
        _logger.info("job=%s cancel asked for, it is %s", video_id, job.status)
        return video_object(job)

    async def delete(self, video_id: str, client: Client = ANYONE) -> VideoDeleted:
        """Remove a job, live or final, with its files. Raises JobNotFoundError."""
        await self._jobs.call("delete", video_id, owner=client.owner)
        _logger.info("job=%s deleted", video_id)
        await asyncio.to_thread(self.storage.delete_tree, results.folder(video_id))
        return VideoDeleted(id=video_id)

    async def events(self, video_id: str, *, after: int) -> AsyncIterator[Event | None]:
        """A job's events behind number `after`, as they happen, to its end; None when there was none for a while.

        Raises JobNotFoundError.
        """
        while True:
            job = await self._job(video_id, ANYONE)
            # Asked before the events: those of a job that was final then are all there.
            if job.is_final:
                events: list[Event] = await self._jobs.call("events", video_id, after=after)
            else:
                events = await self._jobs.events(video_id, after=after)
            for event in events:
                yield event
                after = event.number
            if job.is_final:
                return
            if not events:
                yield None

    async def finished(self, video_id: str, client: Client = ANYONE) -> Job:
        """A job whose files can be fetched. Raises JobNotFoundError, RequestError 409."""
        job = await self._job(video_id, client)
        if job.status != "completed":
            reason = f"it has failed ({job.error.code})" if job.error else f"it is {job.status}"
            raise RequestError(409, "video_not_ready", f"Video {video_id} has no content: {reason}.", param="video_id")
        return job

    async def known(self, video_id: str, client: Client = ANYONE) -> Job:
        """Raises JobNotFoundError."""
        return await self._job(video_id, client)

    async def facts(self) -> QueueFacts:
        """How full the service is."""
        facts: QueueFacts = await self._jobs.call("facts")
        return facts

    async def metrics(self) -> bytes:
        """Prometheus' text format."""
        return exposition(await self.facts(), await self._jobs.call("tallies"))

    async def ready(self) -> QueueFacts:
        """How full the service is, once every stage has a worker. Raises RequestError 503 before."""
        cold = [stage for stage in await self._jobs.cold() if stage in self._rules.awaited]
        if cold:
            message = f"The service is starting: no worker yet to {' and to '.join(cold)}."
            raise RequestError(503, "no_capacity", message, headers={"retry-after": "2"})
        return await self.facts()

    def model(self) -> ModelObject:
        """The model on offer."""
        return model_object(self.card)

    async def _agreed(self, asked: Asked) -> tuple[JobSettings, JobTerms, bytes | None]:
        """Settings and terms of a request, and what it starts from."""
        body, data = asked.body, await self._reference(asked)
        file: ReferenceFile | None = None if data is None else await asyncio.to_thread(checked, data)
        settings = settle(body, self.card, reference=file)
        self._check_extensions(body)
        prompt_asked = None
        if body.enhance_prompt and self._rules.upsampling is not None:
            prompt_asked = settings.prompt
            written = await write_out(settings.prompt, self._rules.upsampling)
            settings = settings.model_copy(update={"prompt": written})
        await self._prompts.accept([settings.prompt, settings.negative_prompt])
        if body.webhook is not None:
            await addresses.check_address(body.webhook.url, allow_private=self._rules.private_addresses)
        size = Size(width=settings.width, height=settings.height)
        terms = JobTerms(
            owner=asked.client.name,
            weight=asked.client.weight,
            step_tflop=self.card.tflop(size=size, num_frames=settings.num_frames, guided=settings.guidance_scale != 1),
            priority=body.priority,
            deadline=None if body.deadline_s is None else time.time() + body.deadline_s,
            preview_every=body.preview_every,
            prompt_asked=prompt_asked,
            remixed_from=asked.remixed_from,
            metadata=body.metadata,
            webhook=body.webhook,
            idempotency_key=asked.idempotency_key,
            request_sha256=_hash_of(body, file),
        )
        return settings, terms, data

    async def _reference(self, asked: Asked) -> bytes | None:
        address = asked.body.input_reference
        if asked.file is not None and address is not None:
            message = "input_reference came as a file and as an address; send one."
            raise RequestError(400, "invalid_value", message, param="input_reference")
        if address is None:
            return asked.file
        return await addresses.fetch(
            address.image_url,
            most_bytes=MOST_REFERENCE_BYTES,
            allow_private=self._rules.private_addresses,
            param="input_reference.image_url",
        )

    def _check_extensions(self, body: CreateVideo) -> None:
        """Raises RequestError 400 for what this service was not set up to do."""
        if body.enhance_prompt and self._rules.upsampling is None:
            message = "This service has no language model that writes prompts out."
            raise RequestError(400, "unsupported_field", message, param="enhance_prompt")
        if body.webhook is not None and not self._rules.webhooks:
            message = "This service has no secret to sign webhooks with, so it sends none."
            raise RequestError(400, "unsupported_field", message, param="webhook")

    async def _refused(self, error: RefusedError | KeyReusedError) -> RequestError:
        """The refusal as a client sees it; it is counted."""
        await self._jobs.call("count", "refused", error.code if isinstance(error, RefusedError) else "key_reused")
        return _answer_to(error)

    async def _drop(self, job_id: str, reference: bytes | None) -> None:
        if reference is not None:
            await asyncio.to_thread(self.storage.delete_tree, results.folder(job_id))

    async def _video(self, job: Job) -> VideoObject:
        return video_object(job, await self._expected(job))

    async def _job(self, video_id: str, client: Client) -> Job:
        job: Job = await self._jobs.call("get", video_id, owner=client.owner)
        return job

    async def _expected(self, job: Job) -> Estimate | None:
        expected: Estimate | None = None if job.is_final else await self._jobs.call("estimate", job.id)
        return expected


def _hash_of(body: CreateVideo, file: ReferenceFile | None) -> str:
    """Equal for equal requests: all that was sent but the quote's id, and the reference by its bytes."""
    said = body.model_dump(mode="json", exclude={"quote_id", "input_reference"}, exclude_unset=True)
    said["input_reference"] = None if file is None else file.sha256
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _answer_to(error: RefusedError | KeyReusedError) -> RequestError:
    if isinstance(error, KeyReusedError):
        return RequestError(409, "idempotency_key_reused", error.message, param="Idempotency-Key")
    if error.retry_after_seconds is None:
        return RequestError(429, error.code, error.message, headers={"x-should-retry": "false"})
    seconds = min(error.retry_after_seconds, 3600.0)
    headers = {"retry-after-ms": str(int(seconds * 1000)), "retry-after": str(int(seconds) + 1)}
    return RequestError(429, error.code, error.message, headers=headers)
