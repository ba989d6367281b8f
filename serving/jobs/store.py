"""The job store's protocol: every backend keeps these promises, and one conformance suite checks them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from serving.jobs.job import (
    Accepted,
    Delivery,
    Event,
    Job,
    JobSettings,
    JobTerms,
    Lease,
    Orders,
    QueueFacts,
    Stage,
)
from serving.scheduling import Estimate, Limits

Order = Literal["asc", "desc"]


class JobStore(Protocol):
    """Durable jobs. A method that returns has its effect on disk.

    Workers hold leases. Each claim of a job raises its epoch, and every write of a worker carries the epoch of its
    lease, so a worker that was taken for dead cannot undo what its successor did: LeaseLostError.
    """

    @property
    def many_writers(self) -> bool:
        """Whether several processes may call one database at the same time."""

    def create(
        self,
        job_id: str,
        settings: JobSettings,
        terms: JobTerms | None = None,
        *,
        limits: Limits | None = None,
        quote_id: str | None = None,
        retried: bool = False,
    ) -> Accepted:
        """Accept a job, or find the one that the same request made before: the same id, the same idempotency key of
        the same owner within a day, or, where the client says that it is repeating itself (`retried`), an equal request
        within a minute. A valid quote is honoured: nothing is refused then.

        Raises RefusedError for a job beyond the limits, KeyReusedError for a key that came with another request.
        """

    def quote(
        self, quote_id: str, settings: JobSettings, terms: JobTerms, *, limits: Limits, seconds: float
    ) -> tuple[float, Estimate]:
        """Denoise-seconds of a job and when it would be done, good for `seconds`. Raises RefusedError."""

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        """Raises JobNotFoundError, also for a job of another owner; owner None sees all."""

    def estimate(self, job_id: str) -> Estimate | None:
        """When a job will be done and what is before it; None once it is final."""

    def page(self, *, after: str | None, limit: int, order: Order, owner: str | None = None) -> tuple[list[Job], bool]:
        """Up to `limit` jobs by arrival, those behind `after`, and whether more follow. Raises JobNotFoundError."""

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        """Close a job as failed with code "cancelled"; a final job stays as it is. Raises JobNotFoundError."""

    def delete(self, job_id: str, *, owner: str | None = None) -> Job:
        """Remove a job with its events; whoever works on it loses the lease. Raises JobNotFoundError."""

    def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        """The job of `stage` that is due (`scheduling.pick`), now leased to `worker`; None when none waits.

        A job whose lease has expired waits again; one that has lost `max_losses` workers fails with "worker_lost", one
        whose deadline has passed with "deadline_exceeded".
        """

    def renew(
        self,
        lease: Lease,
        *,
        lease_seconds: float,
        step: int | None = None,
        step_seconds: float | None = None,
        checkpoint: str | None = None,
    ) -> Orders:
        """Prolong the lease and note progress; steps done for the first time are charged to the owner.

        Raises LeaseLostError.
        """

    def note(self, lease: Lease, *, name: str, **facts: object) -> None:
        """Record an event of the worker's own, like a preview. Raises LeaseLostError."""

    def resumed(self, lease: Lease, *, step: int) -> None:
        """Note that the denoising goes on from a saved state. Raises LeaseLostError."""

    def release(self, lease: Lease, *, preempted: bool = False) -> None:
        """Give a job back unharmed: it can be claimed again at once. A lease that is gone is no error."""

    def hand_over(self, lease: Lease, *, latent_sha256: str, seconds: float, fingerprint: str | None = None) -> None:
        """The latent is stored: the job waits for the decoder. Again with the same lease: no effect."""

    def complete(self, lease: Lease, *, video_sha256: str, seconds: float) -> None:
        """The video is stored: the job is done. Again with the same lease: no effect. Raises LeaseLostError."""

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        """The job cannot be done. Raises LeaseLostError."""

    def events(self, job_id: str, *, after: int = 0, owner: str | None = None) -> list[Event]:
        """Events with a number above `after`, in order. Raises JobNotFoundError."""

    def timed(self, stage: Stage, settings: JobSettings, *, units: float, seconds: float) -> None:
        """Note how long a step (or a decoding) takes, before any job has shown it."""

    def facts(self) -> QueueFacts:
        """How full the service is."""

    def count(self, name: str, label: str) -> None:
        """Add one to a tally."""

    def tallies(self) -> list[tuple[str, str, float]]:
        """What was counted since the database was made: name, label, value. Durations: `ledger.BUCKETS` as labels."""

    def tidy(self) -> None:
        """Take back expired leases and close jobs whose deadline has passed."""

    def due_deliveries(self, *, limit: int = 20) -> list[Delivery]:
        """Webhooks whose time has come; for a minute nobody else gets them."""

    def delivered(self, delivery_id: str, *, again_in_seconds: float | None) -> None:
        """A webhook was tried; None: it is not tried again."""

    def expired(self, *, limit: int = 100) -> list[str]:
        """Ids of final jobs whose files have to go."""

    def files_gone(self, job_id: str) -> None:
        """The files of a job were removed."""

    def forget(self) -> int:
        """Remove final jobs whose history has been kept long enough, with all that hangs on them; how many."""

    def unknown(self, job_ids: Sequence[str]) -> list[str]:
        """Those of the ids that no job has."""

    def next_expiry(self) -> float | None:
        """When the next lease expires, None when there is none."""

    def holds_leases(self) -> bool:
        """Whether any worker holds a lease that has not expired."""

    def close(self) -> None:
        """Flush and close."""
