"""Saved rows of a run go to Weights & Biases by a thread of the driver: training never waits for it, nor ends by it."""

from __future__ import annotations

import importlib.util
import tempfile
import threading
import time
import uuid
from queue import SimpleQueue
from types import TracebackType
from typing import Any

from groundwork.errors import RecipeError, StorageError
from groundwork.storage import Storage
from groundwork.telemetry import get_logger
from training.metrics import StepMetrics, points, read_metrics
from training.recipe import TrainRecipe

_ID = "work/wandb.json"
_LOOK_SECONDS = 10.0
_CLOSE_SECONDS = 30.0


def check_installed(recipe: TrainRecipe) -> None:
    """Raises RecipeError where the recipe asks for Weights & Biases and its package is not there."""
    if recipe.logging.wandb and importlib.util.find_spec("wandb") is None:
        raise RecipeError(
            f"logging.wandb is {recipe.logging.wandb!r}, and the package wandb is not installed.",
            "Install it (pip install 'cogvideox-platform[wandb]'), or leave logging.wandb empty.",
        )


class WandbRows:
    """Sends the rows that a run has saved, each once; a run that goes on is the same one there.

    Does nothing where the recipe names no project. Whatever goes wrong is a warning. Leaving the block waits for what
    is not sent yet, but not long.
    """

    def __init__(self, run: Storage, recipe: TrainRecipe) -> None:
        self._run, self._looked, self._sent = run, 0.0, 0
        self._waiting: SimpleQueue[StepMetrics | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        if recipe.logging.wandb:
            self._thread = threading.Thread(target=self._send, args=(recipe,), name="wandb", daemon=True)

    def look(self, _: int = 0) -> None:
        """Hand over rows that have been saved since; called often."""
        if self._thread is not None and time.monotonic() - self._looked >= _LOOK_SECONDS:
            self._looked = time.monotonic()
            self._hand_over()

    def _hand_over(self) -> None:
        try:
            for row in read_metrics(self._run):
                if row.step > self._sent:
                    self._waiting.put(row)
                    self._sent = row.step
        except StorageError as error:
            get_logger("wandb").warning("rows are not sent now: %s", error)

    def __enter__(self) -> WandbRows:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._hand_over()
            self._waiting.put(None)
            self._thread.join(_CLOSE_SECONDS)

    def _send(self, recipe: TrainRecipe) -> None:
        try:
            there = _opened(self._run, recipe)
            before = _noted(self._run)["sent"]
            while (row := self._waiting.get()) is not None:
                if row.step > before:
                    there.log(points(row), step=row.step)
            there.finish()
            self._run.write_json(_ID, _noted(self._run) | {"sent": self._sent})
        except Exception as error:  # whatever a foreign service does, training goes on
            get_logger("wandb").warning("no more rows are sent to Weights & Biases: %s", error)


def _opened(run: Storage, recipe: TrainRecipe) -> Any:
    import wandb

    return wandb.init(
        project=recipe.logging.wandb,
        name=recipe.name,
        id=_noted(run)["id"],
        resume="allow",
        config=recipe.model_dump(mode="json"),
        dir=run.path() if run.is_local else tempfile.mkdtemp(prefix="cvx-wandb-"),
        settings=wandb.Settings(silent=True, console="off"),
    )


def _noted(run: Storage) -> dict[str, Any]:
    """The run's name there, drawn once and kept with the run, and the last step that was sent."""
    if not run.exists(_ID):
        run.write_json(_ID, {"id": uuid.uuid4().hex[:12], "sent": 0})
    return dict(run.read_json(_ID))
