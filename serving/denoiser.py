"""Jobs become latents: the deployment that pulls jobs and denoises them step by step, resuming where another died."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from ray import serve
from ray.serve.handle import DeploymentHandle
from torch import Tensor

from groundwork.config import FrozenModel
from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import configure_logging, get_logger
from serving import results
from serving.jobs.deployment import JobsClient
from serving.jobs.job import Job, JobSettings, Orders, QueueFacts, StoreDownError
from serving.model import DenoiseModel
from serving.ranks import RankActors, RankShares
from serving.references import frames_of
from serving.scheduling import wanted_denoisers
from serving.stepper import Compute, InThread, Progress, Stepper
from serving.text import TextClient
from serving.worker import ComputeThread, Held, Released, Worker

_logger = get_logger("serving.denoiser")


class Prompts(Protocol):
    """The text encoder, as far as denoising needs it."""

    async def encode(self, prompt: str) -> Tensor: ...


class Denoising:
    """The life of one job in a denoiser; knows the store, the storage and who computes, but not Ray."""

    def __init__(
        self,
        compute: Compute,
        storage: Storage,
        *,
        text: Prompts,
        thread: ComputeThread,
        checkpoint_every_steps: int,
    ) -> None:
        self._compute, self._storage, self._text, self._thread = compute, storage, text, thread
        self._every = checkpoint_every_steps

    async def __call__(self, held: Held) -> None:
        """Denoise the job to its end and hand it to the decoder. Raises Released, LeaseLostError, WorkerLostError."""
        settings = held.job.settings
        prompts = await self._compute.first("prompts", settings)
        embeddings = [await self._text.encode(prompt) for prompt in prompts]
        reference, saved = await self._thread.run(self._read, held.job)
        try:
            progress = await self._compute.everywhere("begin", settings, embeddings, reference, saved)
            if not await self._denoised(held, progress):
                return
            latent, mark = await self._compute.first("result")
        finally:
            await self._compute.everywhere("end")
        sha256 = await self._thread.run(self._store_latent, held.job, latent, mark)
        told = {"latent_sha256": sha256, "seconds": held.seconds, "fingerprint": mark}
        await held.jobs.call("hand_over", held.lease, **told)
        await self._thread.run(self._storage.delete_tree, results.state_folder(held.job.id))

    def _read(self, job: Job) -> tuple[UInt8[np.ndarray, "t h w 3"] | None, bytes | None]:
        """The pictures and the saved state that the job starts from."""
        reference = saved = None
        if job.settings.reference is not None:
            reference = frames_of(self._storage, results.reference_file(job.id), job.settings)
        if job.checkpoint is not None:
            try:
                saved = self._storage.read_bytes(job.checkpoint)
            except StorageError as error:
                _logger.warning("job=%s starts over, its saved state cannot be read: %s", job.id, error)
        return reference, saved

    async def _denoised(self, held: Held, progress: Progress) -> bool:
        """Take all steps that are left; False when the job is not wanted any more.

        What is to be said and stored of a step goes out while the next one is computed: a device never waits for it.
        """
        if progress.step:
            await held.jobs.call("resumed", held.lease, step=progress.step)
            _logger.info("job=%s resumed from step %d", held.job.id, progress.step)
        told = asyncio.create_task(_nothing())
        while not progress.finished:
            step = asyncio.create_task(self._step())
            try:
                orders = await told
            finally:
                await asyncio.wait([step])  # whoever leaves here leaves the device free
            progress, seconds = step.result()
            if orders.cancel:
                return False
            if orders.release and not progress.finished:
                await self._leave(held, progress.step)
            told = asyncio.create_task(self._tell(held, progress, seconds, *await self._taken(held, progress)))
        return not (await told).cancel

    async def _step(self) -> tuple[Progress, float]:
        """One more step, and its seconds."""
        started = time.monotonic()
        progress: Progress = await self._compute.together("step")
        return progress, time.monotonic() - started

    async def _taken(self, held: Held, progress: Progress) -> tuple[bytes | None, bytes | None]:
        """State and picture of a step where they are due, before the next one takes its place."""
        step, finished = progress
        every = held.job.terms.preview_every
        state = await self._compute.first("state") if step % self._every == 0 and not finished else None
        if not every or step % every or finished:
            return state, None
        try:
            return state, await self._compute.first("picture")
        except torch.OutOfMemoryError as error:
            _logger.warning("job=%s there is no preview after step %d: %s", held.job.id, step, error)
            return state, None

    async def _tell(
        self, held: Held, progress: Progress, seconds: float, state: bytes | None, picture: bytes | None
    ) -> Orders:
        """Tell the store that a step is finished, and store what it left; what the store wants."""
        orders = await held.report(step=progress.step, step_seconds=seconds)
        if not orders.cancel and state is not None:
            await self._save(held, progress.step, state)
        if not orders.cancel and picture is not None:
            await self._show(held, progress.step, picture)
        return orders

    async def _leave(self, held: Held, step: int) -> None:
        """Save the newest state and give the job back. Raises Released.

        Without a saved state a job does not make room: what it has would be lost. Going down it has no choice.
        """
        await held.report(step=step)
        saved = await self._save(held, step, await self._compute.first("state"))
        if saved or not held.makes_room:
            raise Released
        held.makes_room = False

    async def _show(self, held: Held, step: int, picture: bytes) -> None:
        """Store and announce a picture of where the steps are leading; it takes nothing from them."""
        job = held.job.id
        try:
            await asyncio.to_thread(self._storage.write_bytes, results.preview_file(job, step), picture)
        except StorageError as error:
            _logger.warning("job=%s there is no preview after step %d: %s", job, step, error)
            return
        await held.jobs.call("note", held.lease, name="preview", step=step, url=f"/v1/videos/{job}/previews/{step}")

    async def _save(self, held: Held, step: int, state: bytes) -> bool:
        """Store the state; it counts once the job store knows of it, and then the one before it can go.

        Whether that worked.
        """
        name = results.state_file(held.lease, step=step)
        try:
            await asyncio.to_thread(self._storage.write_bytes, name, state)
        except StorageError as error:
            # A full disk costs the safety of the job, not the job.
            _logger.warning("job=%s state after step %d is not saved: %s", held.job.id, step, error)
            return False
        await held.report(checkpoint=name)
        if held.checkpoint is not None:
            await asyncio.to_thread(self._storage.delete, held.checkpoint)
        held.checkpoint = name
        return True

    def _store_latent(self, job: Job, latent: Tensor, mark: str) -> str:
        """Its sha256."""
        data, sha256 = results.pack_latent(latent, fingerprint=mark)
        self._storage.write_bytes(results.latent_file(job.id), data)
        return sha256


async def _nothing() -> Orders:
    """Of the start there is nothing to tell."""
    return Orders()


class Trial(FrozenModel):
    """The smallest step on offer."""

    settings: JobSettings
    tflop: float


@serve.deployment(name="Denoiser", max_ongoing_requests=10, graceful_shutdown_wait_loop_s=0.2)
class Denoiser:
    """One job after the other. All control runs on the event loop, all arithmetic in one thread or in ranks."""

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
        ranks: RankShares,
        clear_queue_seconds: float,
        trial: Trial,
    ) -> None:
        configure_logging()
        self._thread = ComputeThread(threads=threads)
        self._jobs = JobsClient(jobs)
        self._clear_queue_seconds = clear_queue_seconds
        self._compute: InThread | RankActors
        if ranks.split.ranks == 1:
            self._compute = InThread(Stepper(DenoiseModel.load(weights, loras=loras)), self._thread)
        else:
            self._compute = RankActors(weights, ranks=ranks, threads=threads, loras=loras)
        work = Denoising(
            self._compute,
            open_storage(results_uri),
            text=TextClient(text),
            thread=self._thread,
            checkpoint_every_steps=checkpoint_every_steps,
        )
        self._trying = asyncio.create_task(self._try(trial))
        check = self._compute.check
        self._worker = Worker(self._jobs, work, stage="denoise", lease_seconds=lease_seconds, check=check)

    async def _try(self, trial: Trial) -> None:
        """Time a small step, so that the first request already gets an estimate. A service that knows better says so
        by itself: what jobs show replaces this."""
        seconds = await self._compute.together("step_seconds", trial.settings)
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
        """Serve replaces this replica when its loop or one of its ranks has died."""
        self._worker.check()
        self._compute.check()

    async def __del__(self) -> None:
        if hasattr(self, "_worker"):
            await self._worker.stop()
            self._compute.close()
            self._thread.close()
