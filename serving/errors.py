"""What a client did wrong, or cannot have now: an exception that becomes an OpenAI-shaped response in `app`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "invalid_request_error",
    416: "invalid_request_error",
    429: "rate_limit_error",
}


class RequestError(Exception):
    """A request that is refused: HTTP status, OpenAI error code, and the field that is off."""

    def __init__(
        self, status: int, code: str, message: str, *, param: str | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.status, self.code, self.message, self.param, self.headers)

    @property
    def kind(self) -> str:
        """OpenAI's error `type`."""
        return _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")


def _again(status: int, code: str, message: str, param: str | None, headers: Mapping[str, str]) -> RequestError:
    return RequestError(status, code, message, param=param, headers=headers)
