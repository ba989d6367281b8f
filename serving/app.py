"""The HTTP routes, and the one place where errors become OpenAI-shaped responses."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from groundwork.errors import InputError, PlatformError
from groundwork.telemetry import get_logger
from serving.bodies import LimitBodies, body_schema, definitions, read_body
from serving.content import event_stream, file_response, preview_response
from serving.desk import Asked, Desk
from serving.errors import RequestError
from serving.jobs.job import JobNotFoundError
from serving.keys import Client, Gate
from serving.protocol import (
    CreateVideo,
    ErrorAnswer,
    ErrorDetail,
    ModelList,
    ModelObject,
    Quote,
    RemixVideo,
    VideoDeleted,
    VideoList,
    VideoObject,
)

_logger = get_logger("serving.http")
_PAGE = Path(__file__).parent / "page" / "index.html"
_BEARER = HTTPBearer(auto_error=False, description="An API key, where this service asks for one.")
_Variant = Literal["video", "thumbnail", "spritesheet", "latents"]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "A field is off; `error.param` names it.",
        401: "The API key is not known.",
        404: "There is no such video or model.",
        408: "The request did not arrive in time.",
        409: "Not possible in the video's state, or the idempotency key was used with another request.",
        410: "The files were removed.",
        413: "The request is too large.",
        429: "Not now: `retry-after-ms` says when to ask again.",
        500: "Something went wrong here.",
        503: "The service is starting, or cannot reach its store.",
    }.items()
}


async def _who(request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> Client:
    """Raises RequestError 401, 429."""
    # The header itself: what the scheme made of it says nothing when it is malformed.
    gate: Gate = request.app.state.gate
    return gate.admit(request.headers.get("authorization"))


_Known = Annotated[Client, Depends(_who)]


def create_app(desk: Desk, gate: Gate | None = None) -> FastAPI:
    """The application; `desk` does what the routes say, `gate` knows the API keys."""
    app = FastAPI(title="CogVideoX", version="1", docs_url="/docs", redoc_url=None, responses=_ERRORS)
    app.add_middleware(LimitBodies)
    app.state.gate = gate or Gate(())
    _add_creating_routes(app, desk)
    _add_video_routes(app, desk)
    _add_other_routes(app, desk)
    _add_error_answers(app)
    _document(app)
    return app


def openapi_document() -> dict[str, Any]:
    """The interface as `/openapi.json` tells it; needs no service, since routes look at their desk when called."""
    return create_app(Desk.__new__(Desk)).openapi()


def _add_creating_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/videos", openapi_extra=body_schema(CreateVideo))
    async def create(request: Request, response: Response, client: _Known) -> VideoObject:
        video, replayed = await desk.create(await _asked(request, client))
        return _created(video, replayed, response)

    @app.post("/v1/videos/quote", openapi_extra=body_schema(CreateVideo))
    async def quote(request: Request, client: _Known) -> Quote:
        return await desk.quote(await _asked(request, client))

    @app.post("/v1/videos/{video_id}/remix", openapi_extra=body_schema(RemixVideo))
    async def remix(video_id: str, request: Request, response: Response, client: _Known) -> VideoObject:
        fields, _ = await read_body(request)
        change = RemixVideo.model_validate(fields)
        asked = _of_headers(request, client, CreateVideo(prompt=change.prompt), None)
        video, replayed = await desk.remix(video_id, change, asked)
        return _created(video, replayed, response)


def _add_video_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/videos")
    async def page(
        client: _Known,
        after: str | None = None,
        limit: Annotated[int, Query(ge=0, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        return await desk.page(after=after, limit=limit, order=order, client=client)

    @app.get("/v1/videos/{video_id}")
    async def retrieve(video_id: str, response: Response, client: _Known) -> VideoObject:
        video, poll_after_ms = await desk.retrieve(video_id, client)
        response.headers["openai-poll-after-ms"] = str(poll_after_ms)
        return video

    @app.delete("/v1/videos/{video_id}")
    async def delete(video_id: str, client: _Known) -> VideoDeleted:
        return await desk.delete(video_id, client)

    @app.post("/v1/videos/{video_id}/cancel")
    async def cancel(video_id: str, client: _Known) -> VideoObject:
        return await desk.cancel(video_id, client)

    @app.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
    async def events(
        video_id: str,
        client: _Known,
        after: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        last_event_id: Annotated[int | None, Header(ge=0, lt=2**31)] = None,
    ) -> StreamingResponse:
        await desk.known(video_id, client)  # an unknown id is a 404, not a stream that breaks off
        stream = event_stream(desk.events(video_id, after=after if last_event_id is None else last_event_id))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @app.get("/v1/videos/{video_id}/content", response_class=Response)
    async def content(video_id: str, request: Request, client: _Known, variant: _Variant = "video") -> Response:
        job = await desk.finished(video_id, client)
        return await file_response(desk.storage, job, request, variant)

    @app.get("/v1/videos/{video_id}/previews/{step}", response_class=Response)
    async def preview(video_id: str, step: Annotated[int, PathParameter(ge=0, lt=2**31)], client: _Known) -> Response:
        await desk.known(video_id, client)
        return await preview_response(desk.storage, video_id, step)


def _add_other_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models")
    async def models(client: _Known) -> ModelList:
        _ = client
        return ModelList(data=[desk.model()])

    @app.get("/v1/models/{name:path}")
    async def model(name: str, client: _Known) -> ModelObject:
        _ = client
        if name != desk.card.name:
            raise RequestError(404, "model_not_found", f"There is no model {name!r} here.", param="model")
        return desk.model()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, Any]:
        facts = await desk.ready()
        return {"status": "ok", "queued": facts.queued, "in_progress": facts.in_progress}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(await desk.metrics(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text(), headers={"cache-control": "no-cache"})


async def _asked(request: Request, client: Client) -> Asked:
    """Raises RequestError 400, 408, 413, ValidationError."""
    fields, file = await read_body(request)
    return _of_headers(request, client, CreateVideo.model_validate(fields), file)


def _of_headers(request: Request, client: Client, body: CreateVideo, file: bytes | None) -> Asked:
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= 255:
        raise RequestError(400, "invalid_value", "Idempotency-Key: 1 to 255 characters.", param="Idempotency-Key")
    retried = request.headers.get("x-stainless-retry-count", "0") not in ("", "0")
    return Asked(body, file, key, retried, client)


def _created(video: VideoObject, replayed: bool, response: Response) -> VideoObject:
    if replayed:
        response.headers["idempotent-replayed"] = "true"
    return video


def _document(app: FastAPI) -> None:
    """OpenAPI with what the bodies that are read by hand refer to."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(title=app.title, version=app.version, routes=app.routes)
            schemas = document.setdefault("components", {}).setdefault("schemas", {})
            for name, schema in definitions(CreateVideo, RemixVideo).items():
                schemas.setdefault(name, schema)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add_error_answers(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(JobNotFoundError)
    async def not_found(_: Request, error: JobNotFoundError) -> JSONResponse:
        return _answer(RequestError(404, "video_not_found", error.message, param="video_id"))

    @app.exception_handler(InputError)
    async def bad_prompt(_: Request, error: InputError) -> JSONResponse:
        return _answer(RequestError(400, "prompt_too_long", error.message, param="prompt"))

    @app.exception_handler(RequestValidationError)
    @app.exception_handler(ValidationError)
    async def invalid(_: Request, error: RequestValidationError | ValidationError) -> JSONResponse:
        return _answer(_of_validation(error))

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        return _answer(RequestError(error.status_code, code, str(error.detail)))

    @app.exception_handler(PlatformError)
    async def unavailable(request: Request, error: PlatformError) -> JSONResponse:
        _logger.error("%s %s: %s", request.method, request.url.path, error)
        message = "The service cannot reach its job store or its storage now; ask again."
        return _answer(RequestError(503, "store_unavailable", message, headers={"retry-after": "2"}))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        number = uuid.uuid4().hex[:12]
        _logger.error("error %s in %s %s", number, request.method, request.url.path, exc_info=error)
        message = f"Something went wrong here, not in your request (error {number})."
        return _answer(RequestError(500, "internal", message))


def _of_validation(error: RequestValidationError | ValidationError) -> RequestError:
    problem = error.errors()[0]
    where = [str(part) for part in problem["loc"] if part not in ("body", "query", "path")]
    param = ".".join(where) or None
    if problem["type"] == "extra_forbidden":
        return RequestError(400, "unsupported_field", f"There is no field {param!r}.", param=param)
    codes = {"seconds": "invalid_seconds", "size": "invalid_size", "num_frames": "invalid_frames"}
    if problem["type"] == "literal_error" and param == "variant":
        codes = {"variant": "invalid_variant"}
    if not where:
        return RequestError(400, "invalid_json", "The body must be an object with the fields of a video.")
    if problem["type"] == "missing":
        return RequestError(400, "missing_field", f"{param} is required.", param=param)
    too_long = problem["type"] == "string_too_long" and param in ("prompt", "negative_prompt")
    code = "prompt_too_long" if too_long else codes.get(param or "", "invalid_value")
    return RequestError(400, code, f"{param}: {problem['msg']}.", param=param)


def _answer(error: RequestError) -> JSONResponse:
    detail = ErrorDetail(message=error.message, type=error.kind, code=error.code, param=error.param)
    # The official client repeats every 409 unless it is told not to.
    headers = {"x-should-retry": "false"} | error.headers if error.status == 409 else error.headers
    return JSONResponse(ErrorAnswer(error=detail).model_dump(), status_code=error.status, headers=headers)
