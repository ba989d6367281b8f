"""API keys: who asks, and what they may have. Only hashes of keys are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Sequence

from pydantic import Field

from groundwork.config import FrozenModel
from serving.errors import RequestError
from serving.scheduling import Limits

_PREFIX = "cvx_"


class ApiKey(FrozenModel):
    """One key of the configuration: `serving key NAME` makes it."""

    name: str = Field(min_length=1, max_length=100)
    """Whose it is: jobs belong to this name."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the key."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the denoisers when several ask: 2 gets twice what 1 gets."""
    queued_jobs: int | None = Field(default=None, ge=1)
    """Jobs that may be unfinished at a time."""
    seconds_per_day: float | None = Field(default=None, gt=0)
    """Denoise-seconds in 24 hours."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests of any kind, counted by each ingress replica for itself."""


class Client(FrozenModel):
    """Who asks, as the rest of the service sees it."""

    name: str = ""
    weight: float = 1.0
    queued_jobs: int | None = None
    seconds_per_day: float | None = None
    sees_all: bool = False
    """Where no keys are asked for, every video is everybody's."""

    @property
    def owner(self) -> str | None:
        """What restricts which jobs are visible."""
        return None if self.sees_all else self.name

    def limits(self, service: Limits) -> Limits:
        """The service's limits with this client's own."""
        own = {"owner_queued_jobs": self.queued_jobs, "owner_seconds_per_day": self.seconds_per_day}
        return service.model_copy(update=own)


ANYONE = Client(sees_all=True)


class Gate:
    """Knows the keys. Without any, everyone is let in."""

    def __init__(self, keys: Sequence[ApiKey], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = {key.sha256: key for key in keys}
        self._buckets: dict[str, tuple[float, float]] = {}
        self._clock = clock

    def admit(self, authorization: str | None) -> Client:
        """Who sends this Authorization header. Raises RequestError 401 for no known key, 429 for too many requests."""
        if not self._keys:
            return ANYONE
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise _unknown("Send your API key as 'Authorization: Bearer KEY'.")
        digest = hash_key(token.strip())
        key = next((key for known, key in self._keys.items() if hmac.compare_digest(known, digest)), None)
        if key is None:
            raise _unknown("This API key is not known.")
        self._count(key)
        return Client(
            name=key.name, weight=key.weight, queued_jobs=key.queued_jobs, seconds_per_day=key.seconds_per_day
        )

    def _count(self, key: ApiKey) -> None:
        """A bucket that holds a minute's requests and fills evenly."""
        if key.requests_per_minute is None:
            return
        now, most = self._clock(), float(key.requests_per_minute)
        left, at = self._buckets.get(key.name, (most, now))
        left = min(most, left + (now - at) * most / 60)
        if left < 1:
            wait = (1 - left) * 60 / most
            headers = {"retry-after-ms": str(int(wait * 1000) + 1), "retry-after": str(int(wait) + 1)}
            message = f"This key may send {key.requests_per_minute} requests a minute."
            raise RequestError(429, "rate_limit_exceeded", message, headers=headers)
        self._buckets[key.name] = (left - 1, now)


def new_key() -> tuple[str, str]:
    """A key that cannot be guessed, and its hash."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hash_key(key)


def hash_key(key: str) -> str:
    """Keys are random, so one round of SHA-256 is enough: there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def _unknown(message: str) -> RequestError:
    return RequestError(401, "invalid_api_key", message, headers={"www-authenticate": "Bearer"})
