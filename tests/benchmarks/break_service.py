"""Breaks a running service in every way that its plan names, and checks that no job is lost, doubled or changed.

    python -m tests.benchmarks.break_service --rounds 1

Each round starts jobs, disturbs the service at a random moment, and waits for the end. Prints one JSON line per round:
whether every accepted job ended exactly once, how many steps were done twice, whether latent and film are the ones that
nobody disturbed, whether a reader that comes back saw every event once, and how long it took to go on. Ends with 1
where one of these is off.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.service_runs import (
    FINAL,
    Service,
    create,
    events,
    make_weights,
    retrieve,
    run_quietly,
    wait_for,
    with_gone,
)

STEPS, EVERY, LEASE = 80, 4, 3.0


class Reader:
    """Follows a job's events like a browser does: after a break it comes back with the last number it saw."""

    def __init__(self, service: Service, video_id: str) -> None:
        self.seen: list[tuple[int, str]] = []
        self._service, self._video_id = service, video_id
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        stop = time.monotonic() + 300
        while time.monotonic() < stop:
            last = self.seen[-1][0] if self.seen else 0
            for number, name, _ in events(self._service.url, self._video_id, last=last):
                self.seen.append((number, name))
            if self.seen and self.seen[-1][1] in FINAL:
                return
            time.sleep(0.3)

    def saw_all_once(self, told: list[tuple[int, str, dict[str, Any]]]) -> bool:
        self._thread.join(timeout=60)
        return self.seen == [(number, name) for number, name, _ in told]


def kill_replica(name: str) -> Callable[[Service], None]:
    def disturb(service: Service) -> None:
        for process in service.replicas(name):
            with_gone(process.kill)

    return disturb


def kill_everything(service: Service) -> None:
    service.kill()
    service.start()


def stop_orderly(service: Service) -> None:
    service.stop()
    service.start()


def freeze_denoiser(service: Service) -> None:
    """Stopped for twice its lease, so that another takes its job over; then it goes on and comes too late."""
    frozen = service.replicas("cogvideox:Denoiser")
    for process in frozen:
        process.suspend()
    time.sleep(2 * LEASE)
    for process in frozen:
        with_gone(process.resume)


DISTURBANCES: dict[str, Callable[[Service], None]] = {
    "denoiser killed": kill_replica("cogvideox:Denoiser"),
    "decoder killed": kill_replica("cogvideox:Decoder"),
    "ingress killed": kill_replica("cogvideox:Ingress"),
    "text encoder killed": kill_replica("cogvideox:Text"),
    "job store killed": kill_replica("cogvideox:Jobs"),
    "Serve controller killed": kill_replica("ServeController"),
    "all processes killed, started again": kill_everything,
    "stopped in order, started again": stop_orderly,
    "denoiser frozen for two leases": freeze_denoiser,
}


def one_round(name: str, service: Service, *, expected: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Three jobs, one disturbance."""
    key = f"{name}-{chance.random()}"
    first = create(service.url, f"{key}-0", seed=21, num_inference_steps=STEPS)["id"]
    others = [create(service.url, f"{key}-{n}", seed=n, num_inference_steps=2)["id"] for n in (1, 2)]
    reader = Reader(service, first)
    when = "decoding" if name.startswith("decoder") else chance.randrange(EVERY + 1, STEPS - EVERY)
    if when == "decoding":
        wait_for(service.url, first, step=STEPS)
    else:
        wait_for(service.url, first, step=int(when))
    began = time.monotonic()
    DISTURBANCES[name](service)
    later = create(service.url, f"{key}-later", prompt=f"nobody has encoded this: {key}", num_inference_steps=2)["id"]
    accepted = time.monotonic() - began
    video = wait_for(service.url, first)
    seconds = time.monotonic() - began
    ended = [wait_for(service.url, other)["status"] for other in (*others, later)]
    told = list(events(service.url, first))
    return {
        "disturbance": name,
        "at": when,
        "seconds_to_the_next_acceptance": round(accepted, 1),
        "seconds_to_the_end": round(seconds, 1),
        "attempts": video["x"]["attempt"],
        "resumed_from": video["x"]["resumed_from_step"],
        "steps_repeated": repeated(told),
        "ended_once": video["status"] == "completed" and ended == ["completed"] * 3 and ends(told) == 1,
        "same_latent": video["x"]["latent_sha256"] == expected["latent_sha256"],
        "same_film": video["x"]["video_sha256"] == expected["video_sha256"],
        "reader_saw_each_event_once": reader.saw_all_once(told),
    }


def repeated(told: list[tuple[int, str, dict[str, Any]]]) -> int:
    """Steps that were done more than once."""
    steps = [facts["step"] for _, name, facts in told if name == "progress"]
    return len(steps) - len(set(steps))


def ends(told: list[tuple[int, str, dict[str, Any]]]) -> int:
    return sum(name in FINAL for _, name, _ in told)


def is_good(found: dict[str, Any]) -> bool:
    checks = ("ended_once", "same_latent", "same_film", "reader_saw_each_event_once")
    return all(found[name] for name in checks) and found["steps_repeated"] <= EVERY + 1


@contextmanager
def small_disk(folder: Path) -> Any:
    """A disk of 8 MB; needs the right to mount."""
    folder.mkdir()
    run_quietly(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)])
    try:
        yield folder
    finally:
        run_quietly(["umount", str(folder)])


def full_disk(weights: Path, base: Path, *, expected: dict[str, Any]) -> dict[str, Any]:
    """States cannot be saved for a while: the job goes on unsafe, and ends as ever once there is room."""
    base.mkdir()
    with small_disk(base / "results") as disk:
        service = Service(weights, base / "state", results=str(disk), checkpoint_every_steps=str(EVERY))
        service.start()
        try:
            video_id = create(service.url, "full", seed=21, num_inference_steps=STEPS)["id"]
            wait_for(service.url, video_id, step=EVERY + 1)
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"0" * 4096)
                except OSError:
                    pass
            wait_for(service.url, video_id, step=STEPS // 2)
            ballast.unlink()
            video = wait_for(service.url, video_id)
            told = list(events(service.url, video_id))
        finally:
            service.kill()
    return {
        "disturbance": "disk full during half of the steps",
        "status": video["status"],
        "checkpoints": sum(name == "checkpoint" for _, name, _ in told),
        "same_latent": video["x"]["latent_sha256"] == expected["latent_sha256"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=[*DISTURBANCES, "full disk"], default=[*DISTURBANCES])
    parser.add_argument("--database", help="a Postgres instead of SQLite: postgresql://…")
    options = parser.parse_args()
    chance, good = random.Random(options.seed), True
    with tempfile.TemporaryDirectory(prefix="cvx-break-") as folder:
        weights, base = make_weights(Path(folder) / "weights"), Path(folder)
        more = {"database": options.database} if options.database else {}
        service = Service(weights, base / "state", lease_seconds=str(LEASE), checkpoint_every_steps=str(EVERY), **more)
        service.start()
        try:
            undisturbed = create(service.url, "undisturbed", seed=21, num_inference_steps=STEPS)["id"]
            expected = dict(wait_for(service.url, undisturbed)["x"])
            for name in [name for name in options.only if name in DISTURBANCES for _ in range(options.rounds)]:
                found = one_round(name, service, expected=expected, chance=chance)
                good = good and is_good(found)
                print(json.dumps(found), flush=True)
            assert retrieve(service.url, undisturbed)["status"] == "completed"
        finally:
            service.kill()
        if "full disk" in options.only:
            found = full_disk(weights, base / "small", expected=expected)
            good = good and found["same_latent"]
            print(json.dumps(found), flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main())
