"""Ranks at work on a job, for tests; what their processes import is little, so that they start soon."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from cogvideox.ranks import Groups, Split, join
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import TOY
from serving.jobs.job import JobSettings
from serving.model import DenoiseModel
from serving.stepper import Stepper

SPLITS = {"halves": Split(2, 1), "parts": Split(1, 2), "both": Split(2, 2)}


class Found(NamedTuple):
    """What a rank, or the one process, has at the end."""

    latent: Tensor
    mark: str
    picture: bytes
    saved: bytes


def take(settings: JobSettings, weights: Path, *, groups: Groups | None = None, saved: bytes | None = None) -> Found:
    """A job from its start, or from `saved`, to its end; the state is saved after step 2."""
    torch.set_num_threads(1)
    loras = {"sketch": str(weights / "sketch.safetensors")}
    stepper = Stepper(DenoiseModel.load(str(weights), loras=loras, groups=groups))
    embeddings = [HashTextEncoder(TOY.text).encode([prompt]) for prompt in stepper.prompts(settings)]
    pictures = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8) if settings.reference else None
    with torch.inference_mode():
        progress, kept, picture = stepper.begin(settings, embeddings, pictures, saved), b"", b""
        while not progress.finished:
            progress = stepper.step()
            if progress.step == 2:
                kept, picture = stepper.state(), stepper.picture()
        found = Found(*stepper.result(), picture, kept)
        stepper.end()
    return found


def read(path: Path) -> Found:
    return Found(*pickle.loads(path.read_bytes()))


def work(rank: int, folder: Path, jobs: dict[str, JobSettings]) -> None:
    for name, split in SPLITS.items():
        if rank >= split.ranks:
            continue
        groups = join(split, rank=rank, meet=folder / f"meet-{name}")
        saved = read(folder / "halves-0").saved if name == "both" else None
        found = take(jobs[name], folder / jobs[name].model, groups=groups, saved=saved)
        (folder / f"{name}-{rank}").write_bytes(pickle.dumps(tuple(found)))
        dist.destroy_process_group()


def spread_over_ranks(folder: Path, jobs: dict[str, JobSettings]) -> dict[str, list[Found]]:
    """What every rank finds of the job of each split; the weights lie in `folder` under the models' names."""
    multiprocessing.set_forkserver_preload([__name__])  # one process imports torch, the ranks are its forks
    mp.start_processes(work, (folder, jobs), nprocs=4, start_method="forkserver")
    return {name: [read(folder / f"{name}-{rank}") for rank in range(split.ranks)] for name, split in SPLITS.items()}
