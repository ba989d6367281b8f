"""The loop of a run around a bare step: what reading, order, noise, engine, average and metrics add to it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import DenoiserConfig
from cogvideox.variants import VARIANTS, TextConfig, Variant
from cogvideox.weights import save_autoencoder
from groundwork.records import Latent
from groundwork.shard import write_shard
from groundwork.storage import open_storage
from training.recipe import TrainRecipe
from training.worker import Job, Training, run_worker

_SKIPPED = 3  # steps at the beginning


def run_seconds(
    config: DenoiserConfig, clips: Sequence[tuple[Tensor, Tensor, Tensor]], *, steps: int
) -> dict[str, Any]:
    """Processor seconds of a run's step, the middle one, and of the forward, backward and update inside it."""
    text = TextConfig(kind="hash", max_tokens=config.max_text_tokens, width=config.text_width)
    variant = replace(VARIANTS["toy"], name="bench", denoiser=config, text=text)
    with (
        tempfile.TemporaryDirectory(prefix="cvx-bench-") as name,
        patch("training.fit.VARIANTS", MappingProxyType({**VARIANTS, "bench": variant})),
    ):
        folder = Path(name)
        budget = write_dataset(folder, variant, clips)
        stage = {"steps": steps, "tokens_per_pack": budget, "packs_per_step": 1, "learning_rate": 1e-4}
        recipe = TrainRecipe.model_validate(
            {
                "variant": "bench",
                "components": str(folder),
                "stages": [stage],
                "engine": {"kind": "ddp"},
                "checkpoints": {"every_steps": 10**6},
                "workers": {"count": 1},
            }
        )
        return timed_run(recipe, folder)


def timed_run(recipe: TrainRecipe, folder: Path) -> dict[str, Any]:
    """Starts of steps, and what engines take of them, by the processor clock."""
    starts: list[float] = []
    network: list[float] = []
    advance, build = Training.advance, Training._build

    def counted(training: Training, *words: Any, **named: Any) -> Any:
        starts.append(time.process_time())
        network.append(0.0)
        return advance(training, *words, **named)

    def built(training: Training) -> None:
        build(training)
        training.engine = _Timed(training.engine, network)

    with patch.object(Training, "advance", counted), patch.object(Training, "_build", built):
        run_worker(Job(recipe, (str(folder / "dataset"),), str(folder / "run")), report=lambda _: None)
    whole = sorted(after - before for before, after in zip(starts[_SKIPPED:], starts[_SKIPPED + 1 :], strict=False))
    inside = sorted(network[_SKIPPED:-1])
    step, bare = whole[len(whole) // 2], inside[len(inside) // 2]
    return {
        "step_cpu_seconds": round(step, 4),
        "network_cpu_seconds": round(bare, 4),
        "overhead": round(step / bare - 1, 4),
    }


class _Timed:
    """An engine whose calls are timed."""

    def __init__(self, engine: Any, network: list[float]) -> None:
        self._engine, self._network = engine, network

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        return self._timed(found) if name in ("backward", "update") else found

    def __call__(self, batch: Any) -> Any:
        return self._timed(self._engine)(batch)

    def _timed(self, call: Any) -> Any:
        def run(*words: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*words, **named)
            finally:
                self._network[-1] += time.thread_time() - began

        return run


def write_dataset(folder: Path, variant: Variant, clips: Sequence[tuple[Tensor, Tensor, Tensor]]) -> int:
    """The clips as the curation writes them, with an autoencoder beside them; returns all their tokens."""
    save_autoencoder(Autoencoder(variant.autoencoder), folder / "vae", variant=variant)
    storage, total = open_storage(folder / "dataset"), 0
    for number, (latent, text, _) in enumerate(clips):
        _, frames, height, width = latent.shape
        tokens = frames * height * width // 4
        row = Latent(
            clip_id=f"clip{number}",
            latent=_bytes(latent),
            latent_shape=list(latent.shape),
            text_embedding=_bytes(text),
            text_shape=list(text.shape),
            tokens=tokens,
            caption="",
        )
        write_shard(storage, f"latents/{frames}x{height}x{width}-{number}/part-00000.parquet", [row], Latent)
        total += tokens + len(text)
    storage.write_json("manifest.json", {"complete": True, "variant": variant.name})
    return total


def _bytes(tensor: Tensor) -> bytes:
    return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
