"""A job's file and its events become HTTP: ranges, conditional requests, the sha256 as ETag; server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from groundwork.errors import StorageError
from groundwork.storage import Storage
from serving import results
from serving.errors import RequestError
from serving.jobs.job import Event, Job


async def file_response(storage: Storage, job: Job, request: Request, variant: str = "video") -> Response:
    """A file of a completed job, whole or in part (Range, If-Range, If-None-Match).

    `variant` is "video" (mp4), "thumbnail" (WebP), "spritesheet" (JPEG) or "latents" (safetensors). The ETag is the
    sha256 of the file, of latents that of the numbers. Raises RequestError 400 for another variant, 410 when the file
    is gone.
    """
    kinds = {
        "video": _Kind(results.video_file(job.id), "video/mp4", ".mp4", job.video_sha256),
        "thumbnail": _Kind(results.thumbnail_file(job.id), "image/webp", ".webp", None),
        "spritesheet": _Kind(results.spritesheet_file(job.id), "image/jpeg", ".jpg", None),
        "latents": _Kind(results.latent_file(job.id), "application/octet-stream", ".safetensors", job.latent_sha256),
    }
    if variant not in kinds:
        message = f"variant={variant!r}: must be one of {', '.join(kinds)}."
        raise RequestError(400, "invalid_variant", message, param="variant")
    kind = kinds[variant]
    if not await asyncio.to_thread(storage.exists, kind.file):
        raise RequestError(410, "result_expired", f"The {variant} of video {job.id} is gone.", param="video_id")
    sha256 = await asyncio.to_thread(storage.checksum, kind.file) if kind.sha256 is None else kind.sha256
    headers = {"etag": f'"{sha256}"', "cache-control": "private, max-age=3600"}
    if _matches(request.headers.get("if-none-match", ""), sha256):
        return Response(status_code=304, headers=headers)
    local = ExitStack()
    try:
        path = await asyncio.to_thread(local.enter_context, storage.local_path(kind.file))
    except StorageError:
        local.close()
        raise
    return FileResponse(
        path,
        media_type=kind.media_type,
        filename=f"{job.id}{kind.suffix}",
        content_disposition_type="inline",
        headers=headers,
        background=BackgroundTask(local.close),
    )


async def preview_response(storage: Storage, job_id: str, step: int) -> Response:
    """The picture after a step as JPEG. Raises RequestError 404 when there is none."""
    file = results.preview_file(job_id, step)
    if not await asyncio.to_thread(storage.exists, file):
        message = f"Video {job_id} has no preview after step {step}."
        raise RequestError(404, "preview_not_found", message, param="step")
    data = await asyncio.to_thread(storage.read_bytes, file)
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


@dataclass(frozen=True)
class _Kind:
    file: str
    media_type: str
    suffix: str
    sha256: str | None


def _matches(if_none_match: str, sha256: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return f'"{sha256}"' in tags or "*" in tags


async def event_stream(events: AsyncIterator[Event | None]) -> AsyncIterator[str]:
    """Server-sent events: `id` is the event's number, for a replay with Last-Event-ID; a comment keeps a quiet line."""
    async for event in events:
        if event is None:
            yield ": still here\n\n"
        else:
            data = json.dumps({"video_id": event.job_id, "at": event.at, **event.facts})
            yield f"id: {event.number}\nevent: {event.name}\ndata: {data}\n\n"
