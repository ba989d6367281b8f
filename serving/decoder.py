"""Latents become mp4 files: the deployment that pulls denoised jobs and streams pixels into the encoder."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from ray import serve
from ray.serve.handle import DeploymentHandle

from groundwork import media
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import configure_logging
from serving import results
from serving.jobs.deployment import JobsClient
from serving.jobs.job import Job
from serving.model import DecodeModel
from serving.stills import Stills
from serving.worker import ComputeThread, Held, Worker


class Decoding:
    """The life of one job in a decoder; knows the store, the storage and the model, but not Ray."""

    def __init__(self, model: DecodeModel, storage: Storage, *, thread: ComputeThread) -> None:
        self._model, self._storage, self._thread = model, storage, thread

    async def __call__(self, held: Held) -> None:
        """Decode and encode the job's latent, store its files, close the job. Raises LeaseLostError."""
        sha256 = await self._thread.run(self._make, held.job)
        await held.jobs.call("complete", held.lease, video_sha256=sha256, seconds=held.seconds)

    def _make(self, job: Job) -> str:
        latent = results.unpack_latent(self._storage.read_bytes(results.latent_file(job.id)))
        stills = Stills(job.settings.num_frames)
        with tempfile.TemporaryDirectory(prefix="cvx-video-") as folder:
            path = Path(folder) / "video.mp4"
            media.write_video(path, stills.watch(self._model.frames(latent)), fps=job.settings.fps)
            self._storage.write_bytes(results.thumbnail_file(job.id), stills.thumbnail())
            self._storage.write_bytes(results.spritesheet_file(job.id), stills.spritesheet())
            self._storage.upload(path, results.video_file(job.id))
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()


@serve.deployment(name="Decoder", max_ongoing_requests=10, graceful_shutdown_wait_loop_s=0.2)
class Decoder:
    """One latent after the other; decoding and encoding overlap chunk by chunk."""

    def __init__(
        self, jobs: DeploymentHandle, *, weights: str, results_uri: str, threads: int, lease_seconds: float
    ) -> None:
        configure_logging()
        self._thread = ComputeThread(threads=threads)
        work = Decoding(DecodeModel.load(weights), open_storage(results_uri), thread=self._thread)
        self._worker = Worker(JobsClient(jobs), work, stage="decode", lease_seconds=lease_seconds)

    async def check_health(self) -> None:
        """Serve replaces this replica when its loop has died."""
        self._worker.check()

    async def __del__(self) -> None:
        if hasattr(self, "_worker"):
            await self._worker.stop()
            self._thread.close()
