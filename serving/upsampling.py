"""A short prompt is written out by a language model, behind any OpenAI-compatible chat endpoint."""

from __future__ import annotations

import os

import httpx
from pydantic import Field

from groundwork.config import FrozenModel
from groundwork.telemetry import get_logger
from serving.errors import RequestError

_logger = get_logger("serving.upsampling")
_INSTRUCTION = (
    "You write prompts for a model that makes short videos. Rewrite the user's idea as one paragraph in English of at "
    "most {words} words: what is seen, how it looks, how it moves, the light, the camera. Keep every fact of the idea, "
    "add nothing that contradicts it, and answer with the paragraph alone."
)


class Upsampling(FrozenModel):
    """Which language model writes prompts out."""

    url: str
    """Base address of the endpoint, up to and with /v1."""
    model: str
    """Name of the model there."""
    api_key_env: str | None = None
    """Environment variable that holds the key, if one is asked for."""
    words: int = Field(default=120, ge=10)
    """Longest answer that is asked for."""
    timeout_seconds: float = Field(default=30.0, gt=0)


async def write_out(prompt: str, settings: Upsampling) -> str:
    """The prompt as the language model wrote it. Raises RequestError 503 when the endpoint gives no answer."""
    key = os.environ.get(settings.api_key_env or "", "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = {
        "model": settings.model,
        "messages": [
            {"role": "system", "content": _INSTRUCTION.format(words=settings.words)},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0.6,
        "top_p": 0.95,
        "seed": 0,
        "max_tokens": settings.words * 4,
    }
    try:
        async with httpx.AsyncClient(timeout=settings.timeout_seconds, trust_env=False) as http:
            answer = await http.post(f"{settings.url.rstrip('/')}/chat/completions", json=body, headers=headers)
        answer.raise_for_status()
        written = str(answer.json()["choices"][0]["message"]["content"]).strip()
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        _logger.warning("the language model at %s gives no prompt: %s", settings.url, error)
        message = "The language model that writes prompts out does not answer; ask again, or without enhance_prompt."
        raise RequestError(503, "enhancer_unavailable", message, headers={"retry-after": "5"}) from error
    if not written:
        message = "The language model gave an empty prompt; ask again, or without enhance_prompt."
        raise RequestError(503, "enhancer_unavailable", message, headers={"retry-after": "5"})
    return written
