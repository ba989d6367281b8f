"""A model at work on one job: what a denoiser's process, or each of its ranks, does when it is told to."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox.sampler import SamplerState
from cogvideox.trajectory import Trajectory
from serving import fingerprint, results
from serving.jobs.job import JobSettings
from serving.model import DenoiseModel, device, finished_step
from serving.worker import ComputeThread


class Progress(NamedTuple):
    """How far a job is."""

    step: int
    finished: bool


class Compute(Protocol):
    """A `Stepper`, here or as several ranks, by the names of its methods."""

    async def first(self, method: str, *args: Any) -> Any:
        """Call it where one answer is enough: at the first rank."""

    async def everywhere(self, method: str, *args: Any) -> Any:
        """Call it on all ranks, which do not meet in it; the first one's answer."""

    async def together(self, method: str, *args: Any) -> Any:
        """Call it on all ranks, which compute it together; the first one's answer."""


class Stepper:
    """One job at a time, in one thread: begin, then steps and questions, then end."""

    def __init__(self, model: DenoiseModel) -> None:
        self._model, self._worn = model, ExitStack()
        self._trajectory: Trajectory | None = None
        self._before: SamplerState | None = None
        self._state: SamplerState | None = None
        self._makers: list[fingerprint.Maker] = []
        self._first_step = 0

    def prompts(self, settings: JobSettings) -> list[str]:
        """As `DenoiseModel.prompts`."""
        return self._model.prompts(settings)

    def step_seconds(self, settings: JobSettings) -> float:
        """As `DenoiseModel.step_seconds`; ranks do it together."""
        return self._model.step_seconds(settings)

    def begin(
        self,
        settings: JobSettings,
        embeddings: list[Float[Tensor, "1 n d"]],
        reference: UInt8[np.ndarray, "t h w 3"] | None,
        saved: bytes | None,
    ) -> Progress:
        """Put on the job's adapters and be where `saved` is (a result of `state`), or at the start.

        Raises WeightsError, RequestError as `DenoiseModel.put_on` and `DenoiseModel.trajectory` do.
        """
        self.end()
        self._settings, self._makers = settings, []
        self._worn = self._model.put_on(settings)
        self._trajectory = self._model.trajectory(settings, embeddings, reference)
        if saved is None:
            self._state = self._trajectory.start()
        else:
            self._state, self._makers = results.unpack_state(saved, device=device())
        self._first_step = self._state.step
        return self._progress

    def step(self) -> Progress:
        """Take one step; ranks do it together."""
        trajectory, self._before = self._running
        self._state = finished_step(trajectory, self._before)
        return self._progress

    def state(self) -> bytes:
        """The whole state, as any number of ranks can go on from, and who made it."""
        _, state = self._running
        return results.pack_state(state, self._made_by)

    def picture(self) -> bytes:
        """A JPEG of where the last step is leading. Raises torch.OutOfMemoryError."""
        trajectory, state = self._running
        assert self._before is not None, "there is a step before there is a picture"
        return self._model.preview(trajectory.predicted(self._before, state))

    def result(self) -> tuple[Float[Tensor, "1 c t h w"], str]:
        """The latent, and the fingerprint of what made it."""
        trajectory, state = self._running
        return trajectory.latent(state).cpu(), fingerprint.of_makers(self._made_by)

    def end(self) -> None:
        """Take the adapters off and forget the job."""
        self._worn.close()
        self._trajectory = self._state = self._before = None

    @property
    def _running(self) -> tuple[Trajectory, SamplerState]:
        assert self._trajectory is not None, "a job was begun"
        assert self._state is not None, "a job was begun"
        return self._trajectory, self._state

    @property
    def _progress(self) -> Progress:
        _, state = self._running
        return Progress(state.step, state.finished)

    @property
    def _made_by(self) -> list[fingerprint.Maker]:
        """Of the state so far; the weights are hashed the first time."""
        own = self._model.fingerprint(self._settings)
        return fingerprint.continued(self._makers, own, from_step=self._first_step)


class InThread:
    """A `Compute` in this process, whose event loop stays free."""

    def __init__(self, stepper: Stepper, thread: ComputeThread) -> None:
        self._stepper, self._thread = stepper, thread

    async def first(self, method: str, *args: Any) -> Any:
        """Call it in the thread."""
        return await self._thread.run(getattr(self._stepper, method), *args)

    everywhere = together = first

    def check(self) -> None:
        """Nothing here can be lost but the process itself."""

    def close(self) -> None:
        """The thread is the caller's."""
