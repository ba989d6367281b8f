"""A labelling session becomes a page on 127.0.0.1: one picture strip, one key per label."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_pipeline.label.session import Session
from groundwork.errors import RunError
from groundwork.telemetry import get_logger

_HOST = "127.0.0.1"
_PAGE = Path(__file__).with_name("page.html")
_MAX_BODY = 1 << 16


@contextmanager
def label_server(session: Session, *, port: int) -> Iterator[ThreadingHTTPServer]:
    """The server, bound to loopback but not serving yet; port 0 takes a free one. Raises RunError for a taken one."""
    try:
        server = ThreadingHTTPServer((_HOST, port), partial(_Handler, session))
    except OSError as error:
        raise RunError(f"Port {port} cannot be opened: {error}", "Give another --port.") from error
    server.daemon_threads = True
    with server:
        yield server


def address(server: ThreadingHTTPServer) -> str:
    """Where the page is."""
    return f"http://{_HOST}:{server.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    """GET / · /state · /picture/<clip id>/<number>; POST /label {clip_id, labels} · /undo {}."""

    def __init__(self, session: Session, *rest: Any) -> None:
        self._session = session
        super().__init__(*rest)

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        if not self._from_here():
            self._send_json({"error": "only this machine may ask"}, HTTPStatus.FORBIDDEN)
        elif self.path == "/":
            self._send(_PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/state":
            self._send_json(self._session.state())
        elif len(parts) == 3 and parts[0] == "picture":
            self._picture(parts[1], parts[2])
        else:
            self._send_json({"error": "not found"}, HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        # A page of another origin cannot send this content type without asking first, and we never answer that.
        json_sent = self.headers.get("Content-Type", "").partition(";")[0] == "application/json"
        if not self._from_here() or not json_sent:
            self._send_json({"error": "only this page may ask"}, HTTPStatus.FORBIDDEN)
            return
        try:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(min(length, _MAX_BODY)) or b"{}")
            if self.path == "/label":
                self._send_json(self._session.put(body["clip_id"], body["labels"]))
            elif self.path == "/undo":
                self._send_json(self._session.undo())
            else:
                self._send_json({"error": "not found"}, HTTPStatus.NOT_FOUND)
        except (ValueError, KeyError, TypeError) as error:
            self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class names it
        get_logger("label").debug(format, *args)

    def _from_here(self) -> bool:
        """Whether the page was asked for by this machine's own name: a foreign name may point at loopback too."""
        return self.headers.get("Host", "").rpartition(":")[0] in (_HOST, "localhost")

    def _picture(self, clip_id: str, number: str) -> None:
        try:
            self._send(self._session.pictures(clip_id)[int(number)], "image/jpeg")
        except (KeyError, IndexError, ValueError):
            self._send_json({"error": "no such picture"}, HTTPStatus.NOT_FOUND)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(value).encode(), "application/json", status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "private, max-age=3600" if kind == "image/jpeg" else "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)
