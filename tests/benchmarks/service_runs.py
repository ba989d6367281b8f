"""A service of the toy model in processes of its own, to be measured or broken: started, asked, killed in parts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.variants import TOY
from cogvideox.weights import save_pipeline

FINAL = ("completed", "failed")


def make_weights(folder: Path) -> Path:
    """Untrained toy weights: pictures do not matter here."""
    denoiser = Denoiser(TOY.denoiser).initialize(seed=0)
    return save_pipeline(folder, variant=TOY, denoiser=denoiser, autoencoder=Autoencoder(TOY.autoencoder))


class Service:
    """`serving run` as a child process. `settings` are flags of the configuration, like {"lease-seconds": "3"}."""

    def __init__(self, weights: Path, state: Path, *, config: str = "smoke", **settings: str) -> None:
        self._weights, self._state, self._config, self._settings = weights, state, config, settings
        self._process: psutil.Popen | None = None
        self.url = ""

    def start(self) -> None:
        """Returns once it answers."""
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "serving", "run", self._config, "--weights", str(self._weights)]
        words += ["--port", str(port), "--state-dir", str(self._state)]
        for name, value in self._settings.items():
            words += [f"--{name.replace('_', '-')}", value]
        log = (self._state.parent / "service.log").open("ab")
        self._process = psutil.Popen(words, stdout=log, stderr=log, env=os.environ | {"RAY_worker_niceness": "0"})
        self.wait_until_ready()

    def wait_until_ready(self, seconds: float = 240) -> None:
        stop = time.monotonic() + seconds
        while time.monotonic() < stop:
            if self._process is not None and self._process.poll() is not None:
                log = self._state.parent / "service.log"
                raise RuntimeError(f"the service has ended: {log.read_text(errors='replace')[-2000:]}")
            try:
                if httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        raise RuntimeError("the service is not ready in time")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=120)
            self._process = None

    def kill(self) -> None:
        """Every process at once, as when the power goes."""
        if self._process is not None:
            everything = [*self._process.children(recursive=True), self._process]
            for process in everything:
                with_gone(process.kill)
            psutil.wait_procs(everything, timeout=20)
            self._process = None

    def replicas(self, name: str) -> list[psutil.Process]:
        """Processes whose title names a deployment, or "ServeController"."""
        assert self._process is not None
        found = []
        for process in self._process.children(recursive=True):
            try:
                if any(name in word for word in process.cmdline()[:1]):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def free_port() -> int:
    """One that nobody listens at now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def with_gone(call: Any) -> None:
    """Call; a process that is gone already is fine."""
    with contextlib.suppress(psutil.NoSuchProcess):
        call()


def ask(url: str, method: str, path: str, *, seconds: float = 90, **options: Any) -> httpx.Response:
    """One request, made again while the service is away; the answer is returned whatever it says."""
    stop = time.monotonic() + seconds
    while True:
        try:
            answer = httpx.request(method, f"{url}{path}", timeout=30, trust_env=False, **options)
            if answer.status_code < 500 or time.monotonic() > stop:
                return answer
        except httpx.TransportError:
            if time.monotonic() > stop:
                raise
        time.sleep(0.3)


def create(url: str, key: str, **fields: Any) -> dict[str, Any]:
    """A job; `key` makes the request safe to repeat."""
    body = {"prompt": "a bunny in a meadow", "num_frames": 9, **fields}
    answer = ask(url, "POST", "/v1/videos", json=body, headers={"idempotency-key": key})
    answer.raise_for_status()
    return dict(answer.json())


def retrieve(url: str, video_id: str) -> dict[str, Any]:
    """The video as it is now."""
    return dict(ask(url, "GET", f"/v1/videos/{video_id}").json())


def wait_for(url: str, video_id: str, *, step: int | None = None, seconds: float = 240) -> dict[str, Any]:
    """The video once it is final, or once it has finished `step` steps."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        video = retrieve(url, video_id)
        if video["status"] in FINAL or (step is not None and video["x"]["step"] >= step):
            return video
        time.sleep(0.05)
    raise RuntimeError(f"{video_id} is not there after {seconds:.0f} s")


def events(url: str, video_id: str, *, last: int = 0) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Events behind number `last` until the stream ends or breaks off."""
    headers = {"last-event-id": str(last)}
    number, name = 0, ""
    try:
        with httpx.stream("GET", f"{url}/v1/videos/{video_id}/events", headers=headers, timeout=30) as stream:
            for line in stream.iter_lines():
                key, _, value = line.partition(": ")
                if key == "id":
                    number = int(value)
                elif key == "event":
                    name = value
                elif key == "data":
                    yield number, name, json.loads(value)
    except httpx.HTTPError:
        return


def run_quietly(words: list[str], **options: Any) -> None:
    """A command of the system that must succeed."""
    subprocess.run(words, check=True, capture_output=True, **options)
