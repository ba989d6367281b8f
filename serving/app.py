"""The HTTP routes, and the one place where errors become OpenAI-shaped responses."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from groundwork.errors import InputError, PlatformError
from groundwork.telemetry import get_logger
from serving.content import event_stream, video_response
from serving.desk import Desk
from serving.errors import RequestError
from serving.jobs.job import JobNotFoundError
from serving.protocol import (
    CreateVideo,
    ErrorAnswer,
    ErrorDetail,
    ModelList,
    ModelObject,
    VideoDeleted,
    VideoList,
    VideoObject,
)

_logger = get_logger("serving.http")
_PAGE = Path(__file__).parent / "page" / "index.html"
_MOST_BODY_BYTES = 1 << 20


def create_app(desk: Desk) -> FastAPI:
    """The application; `desk` does what the routes say."""
    app = FastAPI(title="CogVideoX", version="1", docs_url="/docs", redoc_url=None)
    _add_video_routes(app, desk)
    _add_other_routes(app, desk)
    _add_error_answers(app)
    return app


def _add_video_routes(app: FastAPI, desk: Desk) -> None:
    @app.post("/v1/videos", openapi_extra=_create_body())
    async def create(request: Request) -> VideoObject:
        return await desk.create(await _read_body(request))

    @app.get("/v1/videos")
    async def page(
        after: str | None = None,
        limit: Annotated[int, Query(ge=0, le=100)] = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> VideoList:
        return await desk.page(after=after, limit=limit, order=order)

    @app.get("/v1/videos/{video_id}")
    async def retrieve(video_id: str, response: Response) -> VideoObject:
        video, poll_after_ms = await desk.retrieve(video_id)
        response.headers["openai-poll-after-ms"] = str(poll_after_ms)
        return video

    @app.delete("/v1/videos/{video_id}")
    async def delete(video_id: str) -> VideoDeleted:
        return await desk.delete(video_id)

    @app.post("/v1/videos/{video_id}/cancel")
    async def cancel(video_id: str) -> VideoObject:
        return await desk.cancel(video_id)

    @app.get("/v1/videos/{video_id}/events", response_class=StreamingResponse)
    async def events(
        video_id: str, after: Annotated[int, Query(ge=0)] = 0, last_event_id: Annotated[int | None, Header()] = None
    ) -> StreamingResponse:
        await desk.retrieve(video_id)  # an unknown id is a 404, not a stream that breaks off
        stream = event_stream(desk.events(video_id, after=after if last_event_id is None else last_event_id))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"cache-control": "no-store"})

    @app.get("/v1/videos/{video_id}/content")
    async def content(video_id: str, request: Request, variant: str = "video") -> Response:
        job = await desk.finished(video_id, variant=variant)
        return await video_response(desk.storage, job, request)


def _add_other_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[desk.model()])

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> ModelObject:
        if name != desk.card.name:
            raise RequestError(404, "model_not_found", f"There is no model {name!r} here.", param="model")
        return desk.model()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, Any]:
        return {"status": "ok", **(await desk.ready()).model_dump()}

    @app.get("/", include_in_schema=False)
    async def playground() -> HTMLResponse:
        return HTMLResponse(_PAGE.read_text(), headers={"cache-control": "no-cache"})


async def _read_body(request: Request) -> CreateVideo:
    """JSON or form fields as `CreateVideo`. Raises RequestError 400 or 413."""
    if int(request.headers.get("content-length") or 0) > _MOST_BODY_BYTES:
        raise RequestError(413, "input_too_large", f"The request is larger than {_MOST_BODY_BYTES} bytes.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
        async with request.form(max_files=1, max_fields=50) as form:
            fields: Any = {name: value for name, value in form.items() if isinstance(value, str) and value != ""}
            if len(fields) < len([name for name, value in form.items() if value != ""]):
                message = "Files are not taken: this model makes videos from text alone."
                raise RequestError(400, "unsupported_field", message, param="input_reference")
    else:
        try:
            fields = await request.json()
        except ValueError as error:
            raise RequestError(400, "invalid_json", f"The body is not JSON: {error}") from error
    return CreateVideo.model_validate(fields)


def _create_body() -> dict[str, Any]:
    """OpenAPI of the body, which is read by hand because it comes in two forms."""
    schema = CreateVideo.model_json_schema()
    forms = ("application/json", "multipart/form-data")
    return {"requestBody": {"required": True, "content": {form: {"schema": schema} for form in forms}}}


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
    if not where:
        return RequestError(400, "invalid_json", "The body must be an object with the fields of a video.")
    if problem["type"] == "missing":
        return RequestError(400, "missing_field", f"{param} is required.", param=param)
    code = "prompt_too_long" if problem["type"] == "string_too_long" else codes.get(param or "", "invalid_value")
    return RequestError(400, code, f"{param}: {problem['msg']}.", param=param)


def _answer(error: RequestError) -> JSONResponse:
    detail = ErrorDetail(message=error.message, type=error.kind, code=error.code, param=error.param)
    # The official client repeats every 409 unless it is told not to.
    headers = {"x-should-retry": "false"} | error.headers if error.status == 409 else error.headers
    return JSONResponse(ErrorAnswer(error=detail).model_dump(), status_code=error.status, headers=headers)
