"""The service under load, against diffusers in a plain Ray Serve wrapper: the same weights, the same trace of requests.

    python -m tests.benchmarks.bench_service --seconds 60 --loads 0.5 1.0 2.0

Requests come at random moments (Poisson), whatever the service does: closed loops hide queues. Four keys ask, one of
them ten times as often as the others; one in five asks for a film, the rest for drafts; each wants its video within a
deadline. Load 1 is what one denoiser can just do, measured first. Reported per load: how long acceptance takes, how
many were done in time as a share of what could be done at all, how fair the keys were served (Jain's index over what
each got of what was due to it), how many accepted jobs were late, and the time that the service adds to the sampler.
Prints one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import torch

from cogvideox.generate import CogVideoX
from groundwork import media
from groundwork.ray_session import ray_session
from serving.keys import new_key
from tests.benchmarks.plain_service import plain_app
from tests.benchmarks.service_runs import Service, free_port, make_weights

KEYS = {"flood": 10.0, "ann": 1.0, "bob": 1.0, "cem": 1.0}
DRAFT, FILM = {"num_frames": 9, "num_inference_steps": 20}, {"num_frames": 17, "num_inference_steps": 80}
PROMPT = "a bunny in a meadow"


@dataclass(frozen=True)
class Ask:
    """One request of the trace."""

    at: float
    key: str
    film: bool
    seed: int
    deadline: float


@dataclass
class Fate:
    """What became of it; times in seconds since it was sent."""

    ask: Ask
    accept_seconds: float = 0.0
    status: str = "lost"
    done_seconds: float | None = None

    @property
    def in_time(self) -> bool:
        return self.status == "completed" and (self.done_seconds or 0.0) <= self.ask.deadline


def trace(*, load: float, seconds: float, costs: tuple[float, float], chance: random.Random) -> list[Ask]:
    """Requests whose work is `load` times what one denoiser does; `costs` are seconds of a draft and of a film."""
    mean = 0.8 * costs[0] + 0.2 * costs[1]
    asks, now = list[Ask](), 0.0
    while (now := now + chance.expovariate(load / mean)) < seconds:
        film = chance.random() < 0.2
        key = chance.choices(list(KEYS), weights=list(KEYS.values()))[0]
        asks.append(Ask(now, key, film, len(asks), deadline=10 * costs[film]))
    return asks


async def play(url: str, asks: list[Ask], *, tokens: dict[str, str] | None) -> list[Fate]:
    """Send every request at its moment and follow each accepted job to its end."""
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, limits=httpx.Limits()) as http:
        began = time.monotonic()
        return await asyncio.gather(*(live(http, ask, began, tokens) for ask in asks))


async def live(http: httpx.AsyncClient, ask: Ask, began: float, tokens: dict[str, str] | None) -> Fate:
    await asyncio.sleep(max(0.0, began + ask.at - time.monotonic()))
    fate, sent = Fate(ask), time.monotonic()
    body = {"prompt": PROMPT, "seed": ask.seed, **(FILM if ask.film else DRAFT)}
    headers = {}
    if tokens is not None:
        body["deadline_s"] = ask.deadline
        headers["authorization"] = f"Bearer {tokens[ask.key]}"
    try:
        answer = await http.post("/v1/videos", json=body, headers=headers)
        fate.accept_seconds = time.monotonic() - sent
        if not answer.is_success:
            fate.status = "refused" if answer.status_code == 429 else f"HTTP {answer.status_code}"
            return fate
        path = f"/v1/videos/{answer.json()['id']}"
        while time.monotonic() < sent + 4 * ask.deadline:
            await asyncio.sleep(0.25)
            video = (await http.get(path, headers=headers)).json()
            if video["status"] in ("completed", "failed"):
                fate.status, fate.done_seconds = video["status"], time.monotonic() - sent
                return fate
    except httpx.HTTPError as error:
        fate.status = type(error).__name__
        return fate
    fate.status = "too late"
    return fate


def summary(fates: list[Fate], *, load: float, seconds: float, costs: tuple[float, float]) -> dict[str, Any]:
    """Figures of one load."""
    done = [fate for fate in fates if fate.in_time]
    accepted = [fate for fate in fates if fate.status not in ("refused", "lost")]
    late = [fate for fate in accepted if not fate.in_time]
    # What was in the queue when the last request came is done after it.
    seconds = max([seconds, *(fate.ask.at + (fate.done_seconds or 0.0) for fate in done)])
    accepts = sorted(fate.accept_seconds for fate in fates)
    return {
        "load": load,
        "requests": len(fates),
        "accepted": len(accepted),
        "done_in_time": len(done),
        "goodput_of_capacity": round(sum(costs[fate.ask.film] for fate in done) / seconds, 3),
        "accept_ms_p50_p99": [round(1000 * accepts[int(q * (len(accepts) - 1))]) for q in (0.5, 0.99)],
        "accepted_but_late": round(len(late) / max(1, len(accepted)), 3),
        "jain": round(jain(fates, costs), 3),
        "statuses": {status: sum(f.status == status for f in fates) for status in {f.status for f in fates}},
    }


def jain(fates: list[Fate], costs: tuple[float, float]) -> float:
    """Over what each key got in time, of what is due to it when the least demanding are filled first (max-min)."""
    wanted, got = dict.fromkeys(KEYS, 0.0), dict.fromkeys(KEYS, 0.0)
    for fate in fates:
        wanted[fate.ask.key] += costs[fate.ask.film]
        got[fate.ask.key] += costs[fate.ask.film] * fate.in_time
    left, due = sum(got.values()), dict[str, float]()
    for count, key in enumerate(sorted(KEYS, key=lambda name: wanted[name])):
        due[key] = min(wanted[key], left / (len(KEYS) - count))
        left -= due[key]
    shares = [got[key] / due[key] for key in KEYS if due[key]]
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)) if any(shares) else 0.0


@contextmanager
def ours(weights: Path, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """URL, and the secret of every key."""
    keys = {name: new_key() for name in KEYS}
    named = [{"name": name, "sha256": digest} for name, (_, digest) in keys.items()]
    path = folder / "load.yaml"
    settings = {
        "lease_seconds": 10,
        "checkpoint_every_steps": 5,
        "slice_seconds": 1.0,
        "max_queued_jobs": 1000,
        "api_keys": named,
        "denoiser": {"num_cpus": 0.5, "threads": 1},
        "decoder": {"num_cpus": 0.2, "threads": 1},
    }
    path.write_text(json.dumps(settings))
    service = Service(weights, folder / "state", config=str(path))
    service.start()
    try:
        yield service.url, {name: secret for name, (secret, _) in keys.items()}
    finally:
        service.stop()


@contextmanager
def plain(weights: Path, folder: Path) -> Iterator[str]:
    """URL of the peer, on an embedded Ray of its own."""
    port = free_port()
    with ray_session():
        from ray import serve  # after the session has set the environment that Ray reads when it is imported

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            serve.run(plain_app(weights, folder, threads=1), name="plain", route_prefix="/")
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()


def cost_of(url: str, tokens: dict[str, str] | None, fields: dict[str, int]) -> float:
    """Seconds of one denoiser (ours) or of all (the peer) for a job, the median of five on an idle service."""
    found = []
    for number in range(6):
        began = time.monotonic()
        headers = {"authorization": f"Bearer {tokens['ann']}"} if tokens else {}
        body = {"prompt": PROMPT, "seed": number, **fields}
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as http:
            video = http.post("/v1/videos", json=body).raise_for_status().json()
            while video["status"] not in ("completed", "failed"):
                time.sleep(0.02)
                video = http.get(f"/v1/videos/{video['id']}").json()
        spent = video.get("x", {}).get("stage_seconds", {}).get("denoise")
        found.append(spent if spent is not None else time.monotonic() - began)
    return statistics.median(found[1:])


def overhead_ms(url: str, token: str, weights: Path) -> dict[str, float]:
    """What the service adds to one film on an idle machine: from the request to the file, less sampler, decoder and
    encoder called in this process on the same weights with as many threads; the median of five, in turn."""
    torch.set_num_threads(1)
    model, fields, found = CogVideoX.from_pretrained(weights), {"prompt": PROMPT, "seed": 1, **FILM}, []
    for _ in range(6):
        began = time.monotonic()
        frames = model.generate(
            PROMPT, num_frames=FILM["num_frames"], num_steps=FILM["num_inference_steps"], seed=1, split_guidance=True
        )
        with tempfile.TemporaryDirectory(prefix="cvx-film-") as folder:
            media.write_video(Path(folder) / "film.mp4", iter([frames.numpy()]), fps=8)
        alone = time.monotonic() - began
        began = time.monotonic()
        with httpx.Client(
            base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=60, trust_env=False
        ) as http:
            video = http.post("/v1/videos", json=fields).raise_for_status().json()
            with http.stream("GET", f"/v1/videos/{video['id']}/events") as stream:
                stream.read()
            http.get(f"/v1/videos/{video['id']}/content").raise_for_status()
        found.append((time.monotonic() - began, alone))
    served, alone = (statistics.median(times) for times in zip(*found[1:], strict=True))
    return {"service_seconds": served, "sampler_seconds": alone, "added_ms": 1000 * (served - alone)}


def loads_of(url: str, tokens: dict[str, str] | None, options: argparse.Namespace, costs: tuple[float, float]) -> Any:
    found = []
    for load in options.loads:
        asks = trace(load=load, seconds=options.seconds, costs=costs, chance=random.Random(f"{options.seed} {load}"))
        fates = asyncio.run(play(url, asks, tokens=tokens))
        found.append(summary(fates, load=load, seconds=options.seconds, costs=costs))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["ours", "plain"])
    options = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="cvx-load-") as folder:
        base = Path(folder)
        weights = make_weights(base / "weights")
        if options.only != "plain":
            with ours(weights, base) as (url, tokens):
                costs = (cost_of(url, tokens, DRAFT), cost_of(url, tokens, FILM))
                result["overhead"] = overhead_ms(url, tokens["ann"], weights)
                loads = loads_of(url, tokens, options, costs)
                result["ours"] = {"seconds_per_job": costs, "loads": loads}
        if options.only != "ours":
            with plain(weights, base) as url:
                costs = (cost_of(url, None, DRAFT), cost_of(url, None, FILM))
                result["plain"] = {"seconds_per_job": costs, "loads": loads_of(url, None, options, costs)}
    print(json.dumps(result))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service goes down with it
    main()
