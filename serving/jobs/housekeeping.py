"""What has to happen without anybody asking: leases and deadlines run out, webhooks are sent, old files go."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from groundwork.errors import PlatformError
from groundwork.storage import Storage
from groundwork.telemetry import get_logger
from serving import results
from serving.jobs.job import Delivery, QueueFacts
from serving.webhooks import deliver, next_attempt_seconds

_TIDY_SECONDS, _SWEEP_SECONDS, _SEARCH_SECONDS = 1.0, 30.0, 3600.0
_logger = get_logger("serving.housekeeping")


class Housekeeping:
    """Runs beside the store. `call` is the store by the names of its methods; `wake` is told when jobs wait and no
    denoiser lives, which is how a service that has scaled to zero comes back."""

    def __init__(
        self,
        call: Callable[..., Awaitable[Any]],
        storage: Storage,
        *,
        webhook_secret: str | None,
        private_addresses: bool,
        wake: Callable[[], None],
    ) -> None:
        self._call, self._storage, self._wake = call, storage, wake
        self._webhook_secret, self._private_addresses = webhook_secret, private_addresses
        self._swept, self._searched = -math.inf, -math.inf
        self._suspects: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Until cancelled; a round that fails is logged, and the next one comes."""
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            for duty in (self._tidy, self._send, self._sweep, self._search):
                try:
                    await duty()
                except PlatformError as error:
                    _logger.warning("%s failed: %s", duty.__name__.strip("_"), error)
                except Exception:
                    _logger.exception("%s failed", duty.__name__.strip("_"))

    async def _tidy(self) -> None:
        await self._call("tidy")
        facts: QueueFacts = await self._call("facts")
        if facts.backlog and not facts.workers:
            self._wake()

    async def _send(self) -> None:
        """Every webhook that is due, side by side: one address that hangs does not hold up the others."""
        if self._webhook_secret is not None:
            due: list[Delivery] = await self._call("due_deliveries")
            await asyncio.gather(*(self._send_one(delivery, self._webhook_secret) for delivery in due))

    async def _send_one(self, delivery: Delivery, secret: str) -> None:
        status = await deliver(delivery, secret, allow_private=self._private_addresses)
        arrived = status is not None and 200 <= status < 300
        again = None if arrived else next_attempt_seconds(delivery.attempts + 1)
        if not arrived:
            when = "not again" if again is None else f"again in {again:.0f} s"
            _logger.warning("job=%s webhook=%s answer %s, %s", delivery.job_id, delivery.id, status, when)
        await self._call("delivered", delivery.id, again_in_seconds=again)

    async def _sweep(self) -> None:
        if time.monotonic() - self._swept < _SWEEP_SECONDS:
            return
        self._swept = time.monotonic()
        for job_id in await self._call("expired"):
            await asyncio.to_thread(self._storage.delete_tree, results.folder(job_id))
            await self._call("files_gone", job_id)
            _logger.info("job=%s its files are removed", job_id)
        await self._call("forget")

    async def _search(self) -> None:
        """Folders of no job: what a worker wrote that came late, or a request whose ingress died before it was noted.

        Only what was of no job an hour ago as well goes: a request stores what it starts from before its job is made.
        """
        if time.monotonic() - self._searched < _SEARCH_SECONDS:
            return
        self._searched = time.monotonic()
        files = await asyncio.to_thread(self._storage.list, "jobs")
        found = {name.split("/")[1] for name in files if name.count("/") > 1}
        unknown = frozenset(await self._call("unknown", sorted(found)))
        for job_id in unknown & self._suspects:
            await asyncio.to_thread(self._storage.delete_tree, results.folder(job_id))
            _logger.info("job=%s is not known, its folder is removed", job_id)
        self._suspects = unknown - self._suspects
