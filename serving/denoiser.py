"""Jobs become latents: the deployment that pulls jobs and denoises them step by step, resuming where another died."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Protocol

import torch
from ray import serve
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from cogvideox.sampler import SamplerState
from cogvideox.trajectory import Trajectory
from groundwork.config import FrozenModel
from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import configure_logging, get_logger
from serving import results
from serving.jobs.deployment import JobsClient
from serving.jobs.job import Job, JobSettings, QueueFacts, StoreDownError
from serving.model import DenoiseModel, device, finished_step
from serving.references import frames_of
from serving.scheduling import wanted_denoisers
from serving.text import TextClient
from serving.worker import ComputeThread, Held, Released, Worker

_logger = get_logger("serving.denoiser")


class Prompts(Protocol):
    """The text encoder, as far as denoising needs it."""

    async def encode(self, prompt: str) -> Tensor: ...


class Denoising:
    """The life of one job in a denoiser; knows the store, the storage and the model, but not Ray."""

    def __init__(
        self,
        model: DenoiseModel,
        storage: Storage,
        *,
        text: Prompts,
        thread: ComputeThread,
        checkpoint_every_steps: int,
    ) -> None:
        self._model, self._storage, self._text, self._thread = model, storage, text, thread
        self._every = checkpoint_every_steps

    async def __call__(self, held: Held) -> None:
        """Denoise the job to its end and hand it to the decoder. Raises Released, LeaseLostError."""
        settings = held.job.settings
        embeddings = [await self._text.encode(prompt) for prompt in self._model.prompts(settings)]
        worn = await self._thread.run(self._model.put_on, settings)
        try:
            trajectory = await self._thread.run(self._trajectory, held.job, embeddings)
            state = await self._denoised(held, trajectory)
            if state is None:
                return
            sha256, mark = await self._thread.run(self._store_latent, held.job, trajectory.latent(state))
        finally:
            await self._thread.run(worn.close)
        told = {"latent_sha256": sha256, "seconds": held.seconds, "fingerprint": mark}
        await held.jobs.call("hand_over", held.lease, **told)
        await self._thread.run(self._storage.delete_tree, results.state_folder(held.job.id))

    def _trajectory(self, job: Job, embeddings: list[Tensor]) -> Trajectory:
        reference = None
        if job.settings.reference is not None:
            reference = frames_of(self._storage, results.reference_file(job.id), job.settings)
        return self._model.trajectory(job.settings, embeddings, reference)

    async def _denoised(self, held: Held, trajectory: Trajectory) -> SamplerState | None:
        """The last state; None when the job is not wanted any more."""
        state = await self._thread.run(self._first_state, held.job, trajectory)
        if state.step:
            await held.jobs.call("resumed", held.lease, step=state.step)
            _logger.info("job=%s resumed from step %d", held.job.id, state.step)
        while not state.finished:
            started, before = time.monotonic(), state
            state = await self._thread.run(finished_step, trajectory, state)
            if not await self._report(held, state, step_seconds=time.monotonic() - started):
                return None
            every = held.job.terms.preview_every
            if every and state.step % every == 0 and not state.finished:
                await self._preview(held, trajectory, before, state)
        return state

    async def _preview(self, held: Held, trajectory: Trajectory, before: SamplerState, after: SamplerState) -> None:
        """Store and announce a picture of where the steps are leading; it takes nothing from them."""
        job, step = held.job.id, after.step
        try:
            picture = await self._thread.run(self._model.preview, trajectory.predicted(before, after))
            await self._thread.run(self._storage.write_bytes, results.preview_file(job, step), picture)
        except (StorageError, torch.OutOfMemoryError) as error:
            _logger.warning("job=%s there is no preview after step %d: %s", job, step, error)
            return
        url = f"/v1/videos/{job}/previews/{step}"
        await held.jobs.call("note", held.lease, name="preview", step=step, url=url)

    async def _report(self, held: Held, state: SamplerState, *, step_seconds: float) -> bool:
        """Tell the store that a step is finished, save the state when it is time; whether to go on."""
        orders = await held.report(step=state.step, step_seconds=step_seconds)
        if orders.cancel:
            return False
        release = orders.release and not state.finished
        saved = True
        if release or (state.step % self._every == 0 and not state.finished):
            saved = await self._save(held, state)
        # Without a saved state a job does not make room: what it has would be lost. Going down it has no choice.
        if release and (saved or not held.makes_room):
            raise Released
        held.makes_room = False
        return True

    async def _save(self, held: Held, state: SamplerState) -> bool:
        """Store the state; it counts once the job store knows of it, and then the one before it can go.

        Whether that worked.
        """
        name = results.state_file(held.lease, step=state.step)
        try:
            await self._thread.run(self._storage.write_bytes, name, state.to_bytes())
        except StorageError as error:
            # A full disk costs the safety of the job, not the job.
            _logger.warning("job=%s state after step %d is not saved: %s", held.job.id, state.step, error)
            return False
        await held.report(checkpoint=name)
        if held.checkpoint is not None:
            await self._thread.run(self._storage.delete, held.checkpoint)
        held.checkpoint = name
        return True

    def _first_state(self, job: Job, trajectory: Trajectory) -> SamplerState:
        if job.checkpoint is not None:
            try:
                return SamplerState.from_bytes(self._storage.read_bytes(job.checkpoint), device=device())
            except StorageError as error:
                _logger.warning("job=%s starts over, its saved state cannot be read: %s", job.id, error)
        return trajectory.start()

    def _store_latent(self, job: Job, latent: Tensor) -> tuple[str, str]:
        """Its sha256, and the fingerprint of what made it."""
        mark = self._model.fingerprint(job.settings)
        data, sha256 = results.pack_latent(latent, fingerprint=mark)
        self._storage.write_bytes(results.latent_file(job.id), data)
        return sha256, mark


class Trial(FrozenModel):
    """The smallest step on offer."""

    settings: JobSettings
    tflop: float


@serve.deployment(name="Denoiser", max_ongoing_requests=10, graceful_shutdown_wait_loop_s=0.2)
class Denoiser:
    """One job after the other. All control runs on the event loop, all arithmetic in one thread."""

    def __init__(
        self,
        jobs: DeploymentHandle,
        text: DeploymentHandle,
        *,
        weights: str,
        results_uri: str,
        threads: int,
        lease_seconds: float,
        checkpoint_every_steps: int,
        loras: Mapping[str, str],
        clear_queue_seconds: float,
        trial: Trial,
    ) -> None:
        configure_logging()
        self._thread = ComputeThread(threads=threads)
        self._jobs = JobsClient(jobs)
        self._clear_queue_seconds = clear_queue_seconds
        model = DenoiseModel.load(weights, loras=loras)
        work = Denoising(
            model,
            open_storage(results_uri),
            text=TextClient(text),
            thread=self._thread,
            checkpoint_every_steps=checkpoint_every_steps,
        )
        self._trying = asyncio.create_task(self._try(model, trial))
        self._worker = Worker(self._jobs, work, stage="denoise", lease_seconds=lease_seconds)

    async def _try(self, model: DenoiseModel, trial: Trial) -> None:
        """Time a small step, so that the first request already gets an estimate. A service that knows better says so
        by itself: what jobs show replaces this."""
        seconds = await self._thread.run(model.step_seconds, trial.settings)
        with contextlib.suppress(StoreDownError):
            await self._jobs.call("timed", "denoise", trial.settings, units=trial.tflop, seconds=seconds)

    async def wake(self) -> None:
        """Called by the store when jobs wait and no denoiser lives; that a replica answers is all that is wanted."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What `serving.autoscaling.FollowTheWork` decides by."""
        facts: QueueFacts = await self._jobs.call("facts")
        wanted = wanted_denoisers(backlog=facts.backlog, busy=facts.held, clear_queue_seconds=self._clear_queue_seconds)
        return {"wanted": float(wanted)}

    async def check_health(self) -> None:
        """Serve replaces this replica when its loop has died."""
        self._worker.check()

    async def __del__(self) -> None:
        if hasattr(self, "_worker"):
            await self._worker.stop()
            self._thread.close()
