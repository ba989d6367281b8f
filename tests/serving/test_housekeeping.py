"""What happens without anybody asking: webhooks are sent until they arrive, old files and strays go, prompts are
written out by a language model behind a real chat endpoint."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.captions.asks import Answer
from groundwork.storage import open_storage
from serving import results
from serving.errors import RequestError
from serving.jobs.housekeeping import Housekeeping
from serving.jobs.job import JobSettings, JobTerms, Webhook
from serving.jobs.store import JobStore
from serving.upsampling import Upsampling, write_out
from tests.support.chat_endpoint import chat_endpoint
from tests.support.stores import Clock, claim

SECRET = "whsec_" + "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0"


class Receiver:
    """A webhook's receiver on loopback; `statuses` are what the next messages are answered with."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.got: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.server.shutdown()
    receiver.server.server_close()


@pytest.fixture
def database(tmp_path: Path) -> str:
    return str(tmp_path / "jobs.sqlite")


def keeper(store: JobStore, folder: Path, woken: list[bool]) -> Housekeeping:
    async def call(method: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(store, method)(*args, **kwargs)

    storage = open_storage(folder)
    return Housekeeping(call, storage, webhook_secret=SECRET, private_addresses=True, wake=lambda: woken.append(True))


def finish(store: JobStore) -> None:
    _, lease = claim(store)
    store.hand_over(lease, latent_sha256="l", seconds=1)
    _, lease = claim(store, stage="decode")
    store.complete(lease, video_sha256="v", seconds=1)


def test_a_webhook_is_sent_again_until_it_arrives_and_then_no_more(
    store: JobStore, settings: JobSettings, clock: Clock, receiver: Receiver, tmp_path: Path
) -> None:
    store.create("a", settings, JobTerms(webhook=Webhook(url=receiver.url)))
    finish(store)
    house = keeper(store, tmp_path, [])
    receiver.statuses = [500]
    asyncio.run(house._send())
    asyncio.run(house._send())
    assert len(receiver.got) == 1
    clock.now += 6
    asyncio.run(house._send())
    clock.now += 10_000
    asyncio.run(house._send())
    assert [(message["type"], message["data"]) for message in receiver.got] == [("video.completed", {"id": "a"})] * 2
    assert receiver.got[0]["id"] == receiver.got[1]["id"]


def test_files_go_with_their_time_and_strays_after_a_second_look(
    store: JobStore, settings: JobSettings, clock: Clock, tmp_path: Path
) -> None:
    storage = open_storage(tmp_path / "results")
    store.create("a", settings)
    finish(store)
    for job_id in ("a", "stray"):
        storage.write_bytes(results.video_file(job_id), b"mp4")
    house = keeper(store, tmp_path / "results", [])
    asyncio.run(house._sweep())
    asyncio.run(house._search())
    assert storage.exists(results.video_file("a"))
    assert storage.exists(results.video_file("stray"))
    house._searched = house._swept = float("-inf")
    clock.now += 101
    asyncio.run(house._sweep())
    asyncio.run(house._search())
    assert storage.list("jobs") == []
    assert store.get("a").status == "completed"
    clock.now += 91 * 86_400
    assert (store.forget(), store.forget()) == (1, 0)


def test_a_denoiser_is_called_for_only_while_jobs_wait_and_none_lives(
    store: JobStore, settings: JobSettings, clock: Clock, tmp_path: Path
) -> None:
    woken: list[bool] = []
    house = keeper(store, tmp_path, woken)
    asyncio.run(house._tidy())
    assert woken == []
    store.create("a", settings)
    asyncio.run(house._tidy())
    assert woken == [True]
    claim(store)
    asyncio.run(house._tidy())
    assert woken == [True]
    clock.now += 30  # it was not heard of again
    asyncio.run(house._tidy())
    assert woken == [True, True]


def test_a_prompt_is_written_out_or_the_request_is_told_to_come_again() -> None:
    with chat_endpoint(lambda ask, _: Answer(f"{ask.prompt} in the rain")) as endpoint:
        settings = Upsampling(url=endpoint.url, model="small", timeout_seconds=5)
        assert asyncio.run(write_out("a bunny", settings)) == "a bunny in the rain"
        endpoint.faults = [(500, {}, "broken"), (200, {}, "no json"), (200, {}, "{}")]
        for _ in range(3):
            with pytest.raises(RequestError) as refused:
                asyncio.run(write_out("a bunny", settings))
            assert (refused.value.status, refused.value.code) == (503, "enhancer_unavailable")
