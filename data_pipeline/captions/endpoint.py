"""A model behind any OpenAI-compatible chat endpoint: many requests under way, patience with it, its cost counted."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from data_pipeline.captions.asks import FAILED, REFUSED, Answer, Ask, Sampling
from data_pipeline.captions.pictures import chat_messages
from data_pipeline.captions.settings import EndpointSettings, ModelSettings
from groundwork.errors import RecipeError

_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Statuses after which a request is sent again."""
_HOPELESS = frozenset({401, 403, 404})
"""Statuses that every other request would get too: no key, no right, no such model."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0
_LONGEST_ASKED_WAIT = 600.0


def require(settings: ModelSettings) -> None:
    """Raises RecipeError for an endpoint without address or model, or whose key is not in the environment."""
    endpoint = settings.endpoint
    if not endpoint.url.startswith(("http://", "https://")):
        raise RecipeError(
            f"captions: backend endpoint needs endpoint.url, not {endpoint.url!r}.",
            "Give the base address up to /v1, as http://127.0.0.1:8000/v1",
        )
    if not settings.model:
        raise RecipeError("captions: backend endpoint needs `model`, the name under which the endpoint serves it.")
    _key(endpoint)


def _key(endpoint: EndpointSettings) -> str:
    name = endpoint.api_key_env
    if name and not os.environ.get(name):
        raise RecipeError(
            f"captions: the environment variable {name} (endpoint.api_key_env) is not set.",
            "Set it to the key, here and on every node that captions; the key itself does not belong into a recipe.",
        )
    return os.environ[name] if name else ""


class EndpointModel:
    """Requests run on a thread of their own with one event loop, so limits hold for all callers of the process."""

    def __init__(self, settings: ModelSettings) -> None:
        require(settings)
        self._settings, self._endpoint = settings, settings.endpoint
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="caption-endpoint").start()
        key = _key(self._endpoint)
        self._client = httpx.AsyncClient(
            timeout=self._endpoint.timeout_seconds,
            headers={"authorization": f"Bearer {key}"} if key else {},
            limits=httpx.Limits(max_connections=self._endpoint.concurrency),
        )
        self._under_way = asyncio.Semaphore(self._endpoint.concurrency)
        self._pace = Pace(self._endpoint.requests_per_minute)
        self._hopeless = ""

    @property
    def version(self) -> str:
        return "chat completions"

    def answer(self, asks: Sequence[Ask], sampling: Sampling) -> list[Answer]:
        """All asks at once, as far as the limits let them; a request that fails for good is an answer that says so."""

        async def together() -> list[Answer]:
            return list(await asyncio.gather(*(self._ask(ask, sampling) for ask in asks)))

        return self._run(together()).result()

    def _run(self, work: Coroutine[Any, Any, list[Answer]]) -> Future[list[Answer]]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _ask(self, ask: Ask, sampling: Sampling) -> Answer:
        async with self._under_way:
            body = await asyncio.to_thread(self._body, ask, sampling)
            jitter = random.Random(ask.seed)
            trouble = ""
            for number in range(1, self._endpoint.tries + 1):
                if self._hopeless:
                    return Answer("", REFUSED, self._hopeless, requests=number - 1)
                await self._pace.turn()
                wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (number - 1)) * (0.5 + jitter.random() / 2)
                try:
                    response = await self._client.post(f"{self._endpoint.url.rstrip('/')}/chat/completions", json=body)
                except httpx.HTTPError as error:
                    trouble = f"{type(error).__name__}: {error}".rstrip(": ")
                else:
                    answer, trouble = self._read(response, number)
                    if answer is not None:
                        return answer
                    wait = max(wait, asked_wait(response.headers.get("retry-after", "")))
                if number < self._endpoint.tries:
                    await asyncio.sleep(wait)
            return Answer("", FAILED, f"after {self._endpoint.tries} tries: {trouble}", requests=self._endpoint.tries)

    def _body(self, ask: Ask, sampling: Sampling) -> dict[str, Any]:
        return {
            "model": self._settings.model,
            "messages": chat_messages(ask, quality=self._endpoint.jpeg_quality),
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": ask.seed,
        }

    def _read(self, response: httpx.Response, number: int) -> tuple[Answer | None, str]:
        """The answer, or None and why the request is to be sent again."""
        told = f"HTTP {response.status_code}: {' '.join(response.text[:300].split())}"
        if response.status_code in _HOPELESS:
            self._hopeless = told
            return Answer("", REFUSED, told, requests=number), ""
        if response.status_code in _PASSING or response.status_code >= 500:
            return None, told
        if response.status_code != 200:
            return Answer("", FAILED, told, requests=number), ""
        try:
            return self._parsed(response.json(), number), ""
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return None, f"an answer that is no chat completion ({type(error).__name__}): {response.text[:120]!r}"

    def _parsed(self, said: Any, number: int) -> Answer:
        choice = said["choices"][0]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError("content")
        usage = said.get("usage") or {}
        read, written = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        price = (
            read * self._endpoint.price_per_million_input_tokens
            + written * self._endpoint.price_per_million_output_tokens
        )
        return Answer(
            text.strip(),
            cut_off=choice.get("finish_reason") == "length",
            input_tokens=read,
            output_tokens=written,
            cost=price / 1e6,
            requests=number,
        )


class Pace:
    """At most so many turns per minute, evenly spaced; 0: no limit."""

    def __init__(self, per_minute: float) -> None:
        self._between = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        begin = max(now, self._next)
        self._next = begin + self._between
        if begin > now:
            await asyncio.sleep(begin - now)


def asked_wait(said: str, *, now: datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; at most ten minutes, 0 without one."""
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - (now or datetime.now(UTC))).total_seconds()
        except (ValueError, TypeError):
            return 0.0
    return min(max(0.0, seconds), _LONGEST_ASKED_WAIT)
