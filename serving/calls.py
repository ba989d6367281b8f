"""Calls from one deployment to another that outlive the replica which was to answer them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from serving.jobs.job import StoreDownError

_RETRY_SECONDS, _PAUSE_SECONDS = 30.0, 0.5


async def retried(method: Any, *args: Any, **kwargs: Any) -> Any:
    """What a handle's method answers; asked again while its replica is replaced or the database is away.

    Only for what may be done twice without harm. Raises StoreDownError when there is no answer for half a minute.
    """
    stop = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            return await method.remote(*args, **kwargs)
        except (RayActorError, RayServeException, StoreDownError) as error:
            if time.monotonic() > stop:
                raise StoreDownError(f"A part of the service does not answer: {error}") from error
            await asyncio.sleep(_PAUSE_SECONDS)
