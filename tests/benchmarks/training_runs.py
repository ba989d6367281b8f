"""A small dataset of random latents, a recipe that trains on it in seconds, and what two of its runs have in common."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cogvideox import shape
from groundwork.records import Latent
from groundwork.shard import write_shard
from groundwork.storage import open_storage
from training.metrics import read_metrics
from training.recipe import TrainRecipe
from training.trainer import train

Facts = dict[str, Any]


def make_dataset(folder: Path, *, clips: int = 24) -> Path:
    """Clips of two lengths at 32x48 in the layout of encoded datasets, for the toy."""
    chance, storage = np.random.default_rng(0), open_storage(folder)
    for num_frames in (5, 9):
        rows = [_row(f"clip{number}-{num_frames}", num_frames, chance) for number in range(clips // 2)]
        write_shard(storage, f"latents/{num_frames}x32x48/part-00000.parquet", rows, Latent)
    storage.write_json("manifest.json", {"complete": True, "variant": "toy", "dataset_hash": f"random {clips}"})
    return folder


def _row(name: str, num_frames: int, chance: np.random.Generator) -> Latent:
    sizes = [16, (num_frames - 1) // 4 + 1, 4, 6], [32, 256]
    latent, text = (_bfloat16(chance.standard_normal(size, np.float32)) for size in sizes)
    tokens = shape.num_video_tokens(num_frames, 32, 48)
    return Latent(name, latent, sizes[0], text, sizes[1], tokens=tokens, caption="a clip")


def _bfloat16(values: np.ndarray) -> bytes:
    return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def recipe(*, steps: int, every_steps: int, engine: str, **workers: Any) -> TrainRecipe:
    """The toy on packs of a few small clips, by two workers unless `workers` says otherwise."""
    stage = {"steps": steps, "tokens_per_pack": 110, "packs_per_step": 6, "learning_rate": 1e-3, "warmup_steps": 5}
    return TrainRecipe.model_validate(
        {
            "name": engine,
            "stages": [stage],
            "engine": {"kind": engine},
            "checkpoints": {"every_steps": every_steps, "keep": 2},
            "workers": {"count": 2, "cpus": 0.5, "timeout_seconds": 60} | workers,
        }
    )


class Run:
    """A training in a thread of this process."""

    def __init__(self, recipe: TrainRecipe, *, dataset: Path, out: Path, address: str | None = None) -> None:
        self.out, self._outcome = out, Facts()

        def run() -> None:
            try:
                self._outcome["summary"] = train(recipe, dataset=str(dataset), out=str(out), address=address)
            except BaseException as error:
                self._outcome["error"] = error

        self._thread = threading.Thread(target=run, name="train")
        self._thread.start()

    def wait_for(self, condition: Callable[[], Any], *, seconds: float = 300.0) -> Any:
        """What `condition` gives once it gives something. Raises RuntimeError when the run ends or time runs out."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._thread.is_alive():
            if found := condition():
                return found
            time.sleep(0.05)
        raise RuntimeError(f"waited in vain; the run says {self._outcome.get('error', 'nothing')}")

    def progress(self) -> Facts:
        """What the workers last showed; empty before that."""
        run = open_storage(self.out)
        return dict(run.read_json("work/progress.json")) if run.exists("work/progress.json") else {}

    def summary(self) -> Facts:
        """Wait for the end. Raises what the run raised."""
        self._thread.join()
        if "error" in self._outcome:
            raise self._outcome["error"]
        summary: Facts = self._outcome["summary"]
        return summary


def losses(run: Path) -> list[str]:
    """Every step's loss as the bits of a float32."""
    rows = read_metrics(open_storage(run))
    assert [row.step for row in rows] == list(range(1, len(rows) + 1)), "a step is missing or there twice"
    return [np.float32(row.loss).tobytes().hex() for row in rows]
