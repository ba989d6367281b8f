"""A job's file and its events become HTTP: ranges, conditional requests, the sha256 as ETag; server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from groundwork.errors import StorageError
from groundwork.storage import Storage
from serving import results
from serving.errors import RequestError
from serving.jobs.job import Event, Job


async def video_response(storage: Storage, job: Job, request: Request) -> Response:
    """The mp4 of a completed job, whole or in part. Raises RequestError 410 when the file is gone."""
    etag = f'"{job.video_sha256}"'
    headers = {"etag": etag, "cache-control": "private, max-age=3600"}
    if etag in [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]:
        return Response(status_code=304, headers=headers)
    file = results.video_file(job.id)
    if not await asyncio.to_thread(storage.exists, file):
        raise RequestError(410, "result_expired", f"The file of video {job.id} is gone.", param="video_id")
    local = ExitStack()
    try:
        path = await asyncio.to_thread(local.enter_context, storage.local_path(file))
    except StorageError:
        local.close()
        raise
    return FileResponse(
        path,
        media_type="video/mp4",
        filename=f"{job.id}.mp4",
        content_disposition_type="inline",
        headers=headers,
        background=BackgroundTask(local.close),
    )


async def event_stream(events: AsyncIterator[Event | None]) -> AsyncIterator[str]:
    """Server-sent events: `id` is the event's number, for a replay with Last-Event-ID; a comment keeps a quiet line."""
    async for event in events:
        if event is None:
            yield ": still here\n\n"
        else:
            data = json.dumps({"video_id": event.job_id, "at": event.at, **event.facts})
            yield f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"
