"""The job store's protocol: every backend keeps these promises, and one conformance suite checks them all."""

from __future__ import annotations

from typing import Literal, Protocol

from serving.jobs.job import Event, Job, JobSettings, Lease, Orders, QueueFacts, Stage

Order = Literal["asc", "desc"]


class JobStore(Protocol):
    """Durable jobs. A method that returns has its effect on disk.

    Workers hold leases. Each claim of a job raises its epoch, and every write of a worker carries the epoch of its
    lease, so a worker that was taken for dead cannot undo what its successor did: LeaseLostError.
    """

    def create(self, job_id: str, settings: JobSettings) -> Job:
        """Accept a job. The same id again returns the job that exists (a call that is retried makes one job)."""

    def get(self, job_id: str) -> Job:
        """Raises JobNotFoundError."""

    def page(self, *, after: str | None, limit: int, order: Order) -> tuple[list[Job], bool]:
        """Up to `limit` jobs by arrival, those behind `after`, and whether more follow. Raises JobNotFoundError."""

    def queue_position(self, job_id: str) -> int:
        """How many unfinished jobs arrived before this one."""

    def cancel(self, job_id: str) -> Job:
        """Close a job as failed with code "cancelled"; a final job stays as it is. Raises JobNotFoundError."""

    def delete(self, job_id: str) -> Job:
        """Remove a job with its events; whoever works on it loses the lease. Raises JobNotFoundError."""

    def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        """The oldest job that waits in `stage`, now leased to `worker`; None when there is none.

        A job whose lease has expired waits again; one that has lost `max_losses` workers fails with "worker_lost".
        """

    def renew(
        self, lease: Lease, *, lease_seconds: float, step: int | None = None, checkpoint: str | None = None
    ) -> Orders:
        """Prolong the lease and note progress. Raises LeaseLostError."""

    def resumed(self, lease: Lease, *, step: int) -> None:
        """Note that the denoising goes on from a saved state. Raises LeaseLostError."""

    def release(self, lease: Lease) -> None:
        """Give a job back unharmed: it can be claimed again at once. A lease that is gone is no error."""

    def hand_over(self, lease: Lease, *, latent_sha256: str, seconds: float) -> None:
        """The latent is stored: the job waits for the decoder. Again with the same lease: no effect."""

    def complete(self, lease: Lease, *, video_sha256: str, seconds: float) -> None:
        """The video is stored: the job is done. Again with the same lease: no effect. Raises LeaseLostError."""

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        """The job cannot be done. Raises LeaseLostError."""

    def events(self, job_id: str, *, after: int = 0) -> list[Event]:
        """Events with a number above `after`, in order. Raises JobNotFoundError."""

    def facts(self) -> QueueFacts:
        """How full the service is."""

    def next_expiry(self) -> float | None:
        """When the next lease expires, None when there is none."""

    def holds_leases(self) -> bool:
        """Whether any worker holds a lease that has not expired."""

    def close(self) -> None:
        """Flush and close."""
