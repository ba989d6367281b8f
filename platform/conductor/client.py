"""A client of the video API: creates a job, polls it, downloads the mp4, over plain HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from groundwork.errors import RunError

_FINAL = ("completed", "failed")


def create_and_download(
    base_url: str, request: dict[str, Any], *, on_progress: Callable[[int], None], timeout_seconds: float = 600.0
) -> tuple[dict[str, Any], bytes]:
    """POST `request`, poll until the job is final, GET its mp4. `on_progress` gets percent.

    Raises RunError when the service refuses, the job fails, or it takes longer than `timeout_seconds`.
    """
    with httpx.Client(base_url=base_url, timeout=60.0) as http:
        video = _answer(http.post("/v1/videos", json=request))
        deadline = time.monotonic() + timeout_seconds
        while video["status"] not in _FINAL:
            if time.monotonic() > deadline:
                raise RunError(f"Video {video['id']} is still {video['status']} after {timeout_seconds:g} s.")
            response = http.get(f"/v1/videos/{video['id']}")
            video = _answer(response)
            on_progress(int(video.get("progress") or 0))
            if video["status"] not in _FINAL:
                time.sleep(float(response.headers.get("openai-poll-after-ms", 500)) / 1000)
        if video["status"] != "completed":
            raise RunError(f"Video {video['id']} failed: {video.get('error')}")
        content = http.get(f"/v1/videos/{video['id']}/content")
        content.raise_for_status()
        return video, content.content


def _answer(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise RunError(
            f"{response.request.method} {response.request.url} answered {response.status_code}: {response.text}"
        )
    answer: dict[str, Any] = response.json()
    return answer
