"""An OpenAI-compatible chat endpoint on loopback: a real HTTP server that runs a small model, and can misbehave."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from data_pipeline.captions.asks import Answer, Ask, Sampling

Fault = tuple[int, dict[str, str], str]
"""Status, headers and body of an answer that is no answer."""


@dataclass
class Endpoint:
    """`url` up to /v1. `requests`: bodies in the order of arrival, `began` when each came, `most_at_once` of them.
    `faults`: what the next requests get in place of an answer. `seconds`: how long an answer takes at least."""

    answer: Callable[[Ask, Sampling], Answer]
    key: str = ""
    seconds: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    most_at_once: int = 0
    _at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def respond(self, path: str, headers: Any, body: dict[str, Any]) -> Fault:
        """What a request gets."""
        with self._lock:
            self.requests.append(body)
            self.began.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            fault = self.faults.pop(0) if self.faults else None
        try:
            if path != "/v1/chat/completions":
                return 404, {}, "no such path"
            if self.key and headers.get("authorization") != f"Bearer {self.key}":
                return 401, {}, json.dumps({"error": {"message": "wrong key"}})
            time.sleep(self.seconds)
            return fault or (200, {}, json.dumps(self._completion(body)))
        finally:
            with self._lock:
                self._at_once -= 1

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        with self._lock:  # one model, one thread
            made = self.answer(to_ask(body), Sampling(body["max_tokens"], body["temperature"], body["top_p"]))
        message = {"role": "assistant", "content": made.text}
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "length" if made.cut_off else "stop"}],
            "usage": {"prompt_tokens": made.input_tokens, "completion_tokens": made.output_tokens},
        }


def to_ask(body: dict[str, Any]) -> Ask:
    """The words and the decoded frames of a request."""
    system, words, frames = "", "", []
    for message in body["messages"]:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            if part["type"] == "image_url":
                frames.append(_frame(part["image_url"]["url"]))
            elif message["role"] == "system":
                system = part["text"]
            else:
                words = part["text"]  # the last one is the question, those before are times
    return Ask(words, system, frames, [float(number) for number in range(len(frames))], body["seed"])


def _frame(url: str) -> np.ndarray:
    head, data = url.split(",", 1)
    assert head == "data:image/jpeg;base64"
    decoded: Any = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    return np.ascontiguousarray(decoded[..., ::-1])


@contextmanager
def chat_endpoint(answer: Callable[[Ask, Sampling], Answer], **settings: Any) -> Iterator[Endpoint]:
    """The endpoint, serving until the end of the block."""
    endpoint = Endpoint(answer, **settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, headers, text = endpoint.respond(self.path, self.headers, body)
            data = text.encode()
            try:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except BrokenPipeError:
                self.close_connection = True  # the caller did not wait

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
