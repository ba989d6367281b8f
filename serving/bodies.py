"""Bodies of requests: JSON or a form, within limits of size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.desk import MOST_REFERENCE_BYTES
from serving.errors import RequestError
from serving.forms import unflatten

_MOST_BODY_BYTES = MOST_REFERENCE_BYTES * 4 // 3 + (1 << 20)  # a reference as base64 in JSON, and the other fields
_MOST_SECONDS = 120.0
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def read_body(request: Request, *, file: str = "input_reference") -> tuple[dict[str, Any], bytes | None]:
    """Fields, and the bytes of the part named `file`. Raises RequestError 400, 408, 413."""
    if int(request.headers.get("content-length") or 0) > _MOST_BODY_BYTES:
        raise _too_large()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(_MOST_SECONDS):
            return await _read_form(request, file) if kind in _FORMS else (await _read_json(request), None)
    except TimeoutError as error:
        message = f"The request took longer than {_MOST_SECONDS:.0f} s to arrive."
        raise RequestError(408, "request_timeout", message, headers={"connection": "close"}) from error


def body_schema(model: type[BaseModel], *, file: str = "input_reference") -> dict[str, Any]:
    """OpenAPI of such a body, which is read by hand because it comes in two forms."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    part = {"type": "string", "format": "binary"}
    form = {**schema, "properties": {**schema["properties"], file: part}}
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def definitions(*models: type[BaseModel]) -> Mapping[str, Any]:
    """What `body_schema` refers to."""
    found: dict[str, Any] = {}
    for model in models:
        found |= model.model_json_schema(ref_template="#/components/schemas/{model}").get("$defs", {})
    return found


class LimitBodies:
    """Stops reading a body that is longer than allowed, whatever its header said."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > _MOST_BODY_BYTES:
                raise _too_large()
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        fields = await request.json()
    except (ValueError, RecursionError) as error:
        raise RequestError(400, "invalid_json", f"The body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise RequestError(400, "invalid_json", "The body must be an object with the fields of a video.")
    return fields


async def _read_form(request: Request, file: str) -> tuple[dict[str, Any], bytes | None]:
    try:
        async with request.form(max_files=1, max_fields=100) as form:
            uploads = [(name, part) for name, part in form.multi_items() if isinstance(part, UploadFile)]
            texts = [(name, part) for name, part in form.multi_items() if isinstance(part, str)]
            unknown = [name for name, _ in uploads if name != file]
            if unknown:
                message = f"There is no file {unknown[0][:100]!r}; send {file}."
                raise RequestError(400, "unsupported_field", message, param=unknown[0][:100])
            return unflatten(texts), await uploads[0][1].read() if uploads else None
    except (MultiPartException, UnicodeDecodeError) as error:
        raise RequestError(400, "invalid_form", f"The form cannot be read: {error}") from error


def _too_large() -> RequestError:
    message = f"The request is larger than {_MOST_BODY_BYTES} bytes."
    return RequestError(413, "input_too_large", message, headers={"connection": "close"})
