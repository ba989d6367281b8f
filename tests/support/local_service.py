"""What stands behind the routes, without Ray: the real store and the toy's text encoder, called in this process."""

from __future__ import annotations

from typing import Any

from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import TOY
from groundwork.errors import InputError
from serving.jobs.job import Event, Stage
from serving.jobs.sql import SqlJobStore


class LocalJobs:
    """The real store, without the actor before it; `broken` is what it fails with."""

    def __init__(self, store: SqlJobStore) -> None:
        self.store = store
        self.broken: Exception | None = None
        self.waiting_for: list[Stage] = []

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        if self.broken is not None:
            raise self.broken
        return getattr(self.store, method)(*args, **kwargs)

    async def events(self, job_id: str, *, after: int) -> list[Event]:
        return self.store.events(job_id, after=after)

    async def cold(self) -> list[Stage]:
        return self.waiting_for


class LocalPrompts:
    """The toy's text encoder, without the deployment around it."""

    async def accept(self, prompts: list[str]) -> None:
        try:
            HashTextEncoder(TOY.text).encode(prompts)
        except ValueError as error:
            raise InputError(str(error)) from error
