"""Addresses that clients give lead to the public internet only; webhooks arrive signed."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import openai
import pytest

from groundwork.errors import RunError
from serving.addresses import check_address, fetch, is_public
from serving.errors import RequestError
from serving.webhooks import check_secret, deliver, next_attempt_seconds, signed

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `seen` keeps what was asked."""

    awaited = threading.Event()
    seen: ClassVar[list[tuple[str, dict[str, str], bytes]]] = []

    def do_GET(self) -> None:
        name, _, rest = self.path.lstrip("/").partition("/")
        headers = {"location": f"/{rest}"} if name == "hop" else {}
        if name == "out":
            headers = {"location": "http://10.0.0.1/"}
        body = gzip.compress(bytes(1 << 16)) if name == "gzip" else b"x" * 100
        if name == "gzip":
            headers["content-encoding"] = "gzip"
        self.answer({"hop": 302, "out": 307, "gone": 404}.get(name, 200), headers, body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        if self.path == "/hang/200":
            self.awaited.wait(20)
        self.answer(int(self.path.rpartition("/")[2]), {"location": "/204"}, b"")

    def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.path != "/endless":
            self.send_header("content-length", str(len(body)))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has left
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}).start()
    yield f"http://localhost:{running.server_port}"
    running.shutdown()
    running.server_close()


def read(url: str, *, most_bytes: int = 1000, allow_private: bool = True) -> bytes:
    return asyncio.run(fetch(url, most_bytes=most_bytes, allow_private=allow_private))


def refusal(url: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(RequestError) as refused:
        read(url, **options)
    return refused.value.status, refused.value.code


PRIVATE = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.251"),
    *("240.0.0.1", "255.255.255.255", "192.0.2.1", "168.63.129.16", "::1", "::", "fe80::1%eth0", "fc00::1"),
    *("fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "2001:db8::1", "::7f00:1"),
]


def test_only_addresses_that_everyone_may_reach_are_public() -> None:
    assert [address for address in PRIVATE if is_public(address)] == []
    assert all(map(is_public, ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111")))


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost:1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "http://user:word@8.8.8.8/",
        "file:///etc/passwd",
        "ftp://8.8.8.8/",
        "gopher://8.8.8.8/",
        "http://",
        "//8.8.8.8/",
        "http://exa mple/",
        "http://[::1",
        "http://no-such-host.invalid/",
    ],
)
def test_where_a_client_may_not_send_us_is_refused(url: str) -> None:
    assert refusal(url, allow_private=False) == (400, "url_refused")
    with pytest.raises(RequestError) as refused:
        asyncio.run(check_address(url))
    assert refused.value.param == "webhook.url"


def test_what_lies_there_is_read_within_limits(server: str) -> None:
    assert read(f"{server}/file") == b"x" * 100
    assert read(f"{server}/hop/hop/hop/file") == b"x" * 100
    assert refusal(f"{server}/hop/hop/hop/hop/file") == (400, "reference_unreadable")
    assert refusal(f"{server}/file", allow_private=False) == (400, "url_refused")
    assert refusal(f"{server}/file", most_bytes=99) == (413, "input_too_large")
    assert refusal(f"{server}/endless", most_bytes=99) == (413, "input_too_large")
    assert refusal(f"{server}/gone") == (400, "reference_unreadable")
    assert refusal(f"{server}/gzip") == (400, "reference_unreadable")
    assert refusal("http://localhost:1/") == (400, "reference_unreadable")


def test_a_redirect_is_checked_like_the_first_address(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.addresses.is_public", lambda address: address == "127.0.0.1")
    assert read(f"{server.replace('localhost', '127.0.0.1')}/file", allow_private=False) == b"x" * 100
    assert refusal(f"{server.replace('localhost', '127.0.0.1')}/out", allow_private=False) == (400, "url_refused")


def test_the_connection_goes_to_the_address_that_was_checked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def rebinding(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "10.0.0.1"
        return [(2, 1, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.base_events.BaseEventLoop, "getaddrinfo", rebinding)
    port = server.rpartition(":")[2]
    assert read(f"http://name.example:{port}/file") == b"x" * 100
    assert asked[0] == "name.example"
    assert "name.example" not in asked[1:]


def test_data_addresses_are_read_in_place() -> None:
    assert read("data:image/png;base64,aGVsbG8=") == b"hello"
    assert read("DATA:,hello%20you") == b"hello you"
    for broken in ("data:image/png;base64", "data:;base64,a", "data:;base64,###="):
        assert refusal(broken) == (400, "reference_unreadable")
    for long in ("data:," + "x" * 11, "data:;base64," + "A" * 40):
        assert refusal(long, most_bytes=10) == (413, "input_too_large")


@pytest.mark.parametrize("event", ["video.completed", "video.failed"])
def test_the_official_client_reads_our_webhooks(server: str, event: str) -> None:
    message = SimpleNamespace(id="evt_1", job_id="video_1", url=f"{server}/hook/204", event=event, created_at=1.5)
    Handler.seen.clear()
    assert asyncio.run(deliver(message, SECRET, allow_private=True)) == 204
    (path, headers, body), client = Handler.seen[0], openai.OpenAI(api_key="any")
    assert (path, headers["content-type"]) == ("/hook/204", "application/json")
    told = client.webhooks.unwrap(body, headers, secret=SECRET)
    assert (told.type, told.id, told.created_at, told.data.id) == (event, "evt_1", 1, "video_1")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        client.webhooks.unwrap(body + b" ", headers, secret=SECRET)


def test_a_delivery_that_fails_says_how(server: str) -> None:
    def status(url: str, *, allow_private: bool = True) -> int | None:
        message = SimpleNamespace(id="evt_1", job_id="v", url=url, event="video.failed", created_at=1.0)
        return asyncio.run(deliver(message, SECRET, allow_private=allow_private))

    assert [status(f"{server}/{code}") for code in (500, 302)] == [500, 302]
    assert status(f"{server}/204", allow_private=False) is None
    assert status("http://localhost:1/") is None


def test_a_receiver_that_hangs_holds_up_nobody(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.webhooks._ATTEMPT_SECONDS", 0.1)
    message = SimpleNamespace(id="e", job_id="v", url=f"{server}/hang/200", event="video.failed", created_at=1.0)
    assert asyncio.run(deliver(message, SECRET, allow_private=True)) is None
    Handler.awaited.set()


def test_attempts_come_further_and_further_apart_and_end() -> None:
    waits = [next_attempt_seconds(attempts) for attempts in range(1, 11)]
    assert waits[:3] == [5.0, 20.0, 80.0]
    assert waits[-1] is None
    pauses = [wait for wait in waits if wait is not None]
    assert pauses == sorted(pauses)
    assert 12 * 3600 < sum(pauses) < 36 * 3600


@pytest.mark.parametrize("secret", ["", "plain", "whsec_", "whsec_###", "whsec_c2hvcnQ="])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(RunError, match="whsec_"):
        check_secret(secret)
    with pytest.raises(RunError):
        signed("evt_1", b"", secret, at=0)
