"""Checkpoints of a running training become films, made beside it by one Ray task at a time."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from cogvideox import CogVideoX
from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger
from training import checkpoint
from training.datasets import open_data
from training.export import averaged_model
from training.films import folder_of, made_series
from training.recipe import TrainRecipe
from training.samples import Prompts, write_samples

_LOOK_SECONDS = 2.0  # between two listings of the checkpoints, while films are due and none is there yet
_WAIT_SECONDS = 600.0  # at the end, for films that are being made
_LOW_PRIORITY = 19  # training comes first on CPUs that they share


class Previews:
    """What the driver of a training does: ask for films of checkpoints as they appear.

    Leaving the block waits for those that are being made; after an error they are given up. Whatever goes wrong with
    films is a warning.
    """

    def __init__(self, run: Storage, recipe: TrainRecipe, *, datasets: Sequence[str]) -> None:
        self._run, self._recipe, self._datasets = run, recipe, datasets
        self._every = recipe.samples.every_steps if recipe.samples.count else 0
        made = made_series(run) if self._every else []
        self._asked = max((series.step for series in made), default=0)
        self._task: Any = None
        self._looked, self._log = -_LOOK_SECONDS, get_logger("samples")

    def look(self, step: int) -> None:
        """Ask for films of the newest checkpoint where they are due; training has got to `step`."""
        if not self._every:
            return
        from ray.exceptions import RayError

        try:
            self._collect(seconds=0.0)
            if self._is_due(step) and time.monotonic() - self._looked >= _LOOK_SECONDS:
                self._looked = time.monotonic()
                self._ask()
        except (StorageError, RayError) as error:
            self._log.warning("films cannot be asked for: %s", error)

    def _is_due(self, step: int) -> bool:
        return step // self._every > self._asked // self._every

    def _ask(self) -> None:
        """The last step is left out: its films are made of the exported weights."""
        newest = max(checkpoint.complete_steps(self._run), default=0)
        if not self._is_due(newest) or newest >= self._recipe.num_steps:
            return
        if self._task is not None:
            self._log.warning("no films of step %d: earlier ones are still being made", newest)
        else:
            self._task = _submit(self._recipe, self._run.uri, datasets=self._datasets, step=newest)
        self._asked = newest

    def _collect(self, *, seconds: float) -> bool:
        """Whether nothing is being made any more; says what came of it."""
        import ray
        from ray.exceptions import RayError

        if self._task is None:
            return True
        ready, _ = ray.wait([self._task], timeout=seconds)
        if not ready:
            return False
        self._task = None
        try:
            self._log.info("films of step %d are made", ray.get(ready[0]))
        except RayError as error:
            self._log.warning("films were not made, training goes on: %s", str(error).strip().splitlines()[-1])
        return True

    def __enter__(self) -> Previews:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray
        from ray.exceptions import RayError

        try:
            if kind is None and not self._collect(seconds=_WAIT_SECONDS):
                self._log.warning("films are given up: %g s after training ended they are not made", _WAIT_SECONDS)
            if self._task is not None:
                ray.cancel(self._task, force=True)
        except RayError as problem:
            self._log.warning("films were not made: %s", problem)


def _submit(recipe: TrainRecipe, run: str, *, datasets: Sequence[str], step: int) -> Any:
    """The task's reference. It gets what is free of the CPUs that it asks for, and a GPU where one is idle."""
    import ray

    free = ray.available_resources()
    cpus = min(recipe.samples.cpus, int(100 * free.get("CPU", 0.0)) / 100)
    # One call and the process ends: its low priority is not handed on to other work.
    make = ray.remote(num_cpus=cpus, num_gpus=int(free.get("GPU", 0.0) >= 1), max_retries=0, max_calls=1)(_make)
    return make.remote(recipe.model_dump_json(), run, tuple(datasets), step)


def _make(recipe: str, run: str, datasets: tuple[str, ...], step: int) -> int:
    """What Ray runs."""
    import ray
    import torch

    os.nice(_LOW_PRIORITY)
    settings = TrainRecipe.model_validate_json(recipe)
    torch.set_num_threads(max(1, int(settings.samples.cpus)))
    on_gpu = bool(ray.get_gpu_ids())
    return make_films(settings, open_storage(run), datasets=datasets, step=step, on_gpu=on_gpu)


def make_films(recipe: TrainRecipe, run: Storage, *, datasets: Sequence[str], step: int, on_gpu: bool = False) -> int:
    """Films of the moving average in the checkpoint of a step, or in the newest where that one is there no more.

    Returns the step that they are of. Raises StorageError where no checkpoint can be read.
    """
    found, model = _average(recipe, run, step=step)
    if on_gpu:
        model.denoiser.cuda()
        model.autoencoder.cuda()
    prompts = Prompts(open_data(recipe, datasets), recipe.samples)
    write_samples(run, model, prompts, step=found.step, folder=folder_of(found.step))
    return found.step


def _average(recipe: TrainRecipe, run: Storage, *, step: int) -> tuple[checkpoint.Checkpoint, CogVideoX]:
    """The checkpoint and its model. One may be removed while it is opened; the newest is not so soon."""
    try:
        if found := checkpoint.complete_at(run, step):
            return found, averaged_model(run, found, recipe=recipe)
    except (StorageError, FileNotFoundError):
        get_logger("samples").info("the checkpoint of step %d is gone: the newest is taken", step)
    newest = checkpoint.newest_complete(run)
    if newest is None:
        raise StorageError(f"{run.uri} holds no checkpoint.")
    return newest, averaged_model(run, newest, recipe=recipe)
