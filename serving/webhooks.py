"""The end of a job is told to an address: signed by Standard Webhooks, in the shape of OpenAI's events."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import time
from typing import Any, Protocol

import httpx

from groundwork.errors import RunError
from serving.addresses import AddressRefusedError, opened

_PREFIX = "whsec_"
_ATTEMPT_SECONDS = 20.0  # for all of it: an answer may also come drop by drop
_FIRST_SECONDS, _GROWTH, _MOST_SECONDS, _MOST_ATTEMPTS = 5.0, 4.0, 6 * 3600.0, 10


class Message(Protocol):
    """A delivery that is due."""

    @property
    def id(self) -> str:
        """The same in every attempt, so that a receiver can drop what it had already."""

    @property
    def job_id(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def event(self) -> str:
        """video.completed or video.failed."""

    @property
    def created_at(self) -> float: ...


async def deliver(message: Message, secret: str, *, allow_private: bool = False) -> int | None:
    """One attempt: the HTTP status that came back, None when none did. Success is 200 to 299; redirects are none.

    Raises RunError for a malformed secret.
    """
    body = payload(message)
    headers = {"content-type": "application/json", **signed(message.id, body, secret, at=int(time.time()))}
    asked: dict[str, Any] = {"allow_private": allow_private, "content": body, "headers": headers}
    try:
        async with asyncio.timeout(_ATTEMPT_SECONDS), opened("POST", message.url, **asked) as answer:
            return answer.status_code
    except (AddressRefusedError, httpx.HTTPError, OSError):  # TimeoutError is an OSError
        return None


def next_attempt_seconds(attempts: int) -> float | None:
    """Seconds to wait after `attempts` failed ones: 5, 20, 80, … at most six hours; None after the tenth (a day)."""
    if attempts >= _MOST_ATTEMPTS:
        return None
    return min(_MOST_SECONDS, _FIRST_SECONDS * _GROWTH ** max(0, attempts - 1))


def payload(message: Message) -> bytes:
    """The body, the same in every attempt."""
    event = {
        "id": message.id,
        "object": "event",
        "created_at": int(message.created_at),
        "type": message.event,
        "data": {"id": message.job_id},
    }
    return json.dumps(event, separators=(",", ":")).encode()


def signed(message_id: str, body: bytes, secret: str, *, at: int) -> dict[str, str]:
    """The three headers of Standard Webhooks: HMAC-SHA256 over id, time and body."""
    content = f"{message_id}.{at}.".encode() + body
    signature = base64.b64encode(hmac.new(_key(secret), content, hashlib.sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(at), "webhook-signature": f"v1,{signature}"}


def check_secret(secret: str) -> None:
    """Raises RunError for a secret that is not "whsec_" and base64 of 24 to 64 bytes."""
    _key(secret)


def _key(secret: str) -> bytes:
    hint = "Make one: python -c \"import base64, secrets; print('whsec_' + base64.b64encode(secrets.token_bytes(32))"
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not secret.startswith(_PREFIX) or not 24 <= len(key) <= 64:
        raise RunError("The webhooks' secret must be 'whsec_' and 24 to 64 bytes in base64.", f'{hint}.decode())".')
    return key
