"""Trains undisturbed, then again with workers killed on the way, through real Ray: the same bits must come out.

    python -m tests.benchmarks.kill_training --engines zero-2 zero-3 fsdp

A worker is killed (SIGKILL) at a random moment after the first checkpoint, and again after the run has gone on. Prints
one JSON line per engine; ends with 1 where losses (as float32) or the hash of the final weights differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from groundwork.ray_session import ray_session
from tests.benchmarks.training_runs import Run, losses, make_dataset, recipe
from training.recipe import TrainRecipe


def workers() -> list[psutil.Process]:
    """The training workers of this process's embedded Ray."""
    below = psutil.Process(os.getpid()).children(recursive=True)
    return [process for process in below if any("RayTrainWorker" in word for word in process.cmdline()[:1])]


def disturbed(asked: TrainRecipe, *, dataset: Path, out: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Train to the end with some worker killed now and then; returns the summary, with where it was killed."""
    run, every, killed = Run(asked, dataset=dataset, out=out), asked.checkpoints.every_steps, list[dict[str, Any]]()
    after(run, every)
    for _ in range(kills):
        after(run, reached(run) + chance.randrange(1, 2 * every))
        chance.choice(workers()).send_signal(signal.SIGKILL)
        step, began = reached(run), time.monotonic()
        after(run, step + every)
        start = run.progress()["first_step"]
        killed.append({"step": step, "from": start, "seconds": round(time.monotonic() - began, 1)})
    return run.summary() | {"killed": killed}


def reached(run: Run) -> int:
    """The last step that was shown."""
    return int(run.progress().get("step", 0))


def after(run: Run, step: int) -> None:
    """Wait until a step is shown."""
    run.wait_for(lambda: reached(run) >= step)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", default=["zero-2", "zero-3", "fsdp"])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--every-steps", type=int, default=15)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, same = random.Random(options.seed), True
    with tempfile.TemporaryDirectory(prefix="cvx-kill-") as folder, ray_session():
        dataset = make_dataset(Path(folder) / "dataset")
        for engine in options.engines:
            asked = recipe(steps=options.steps, every_steps=options.every_steps, engine=engine)
            plain, out = Path(folder) / f"{engine}-plain", Path(folder) / f"{engine}-killed"
            expected = Run(asked, dataset=dataset, out=plain).summary()
            got = disturbed(asked, dataset=dataset, out=out, kills=options.kills, chance=chance)
            found = {
                "engine": engine,
                "killed": got["killed"],
                "steps": len(losses(out)),
                "losses_equal": losses(out) == losses(plain),
                "weights_equal": got["weights_sha256"] == expected["weights_sha256"],
                "weights_sha256": got["weights_sha256"],
            }
            same = same and found["losses_equal"] and found["weights_equal"]
            print(json.dumps(found), flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
