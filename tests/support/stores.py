"""Job stores under test: a clock that stands still, and what most tests do first."""

from __future__ import annotations

from serving.jobs.job import Job, Lease
from serving.jobs.store import JobStore


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def claim(
    store: JobStore, *, stage: str = "denoise", worker: str = "w", lease_seconds: float = 10
) -> tuple[Job, Lease]:
    job = store.claim(stage, worker=worker, lease_seconds=lease_seconds)  # type: ignore[arg-type]
    assert job is not None
    return job, Lease(job_id=job.id, epoch=job.epoch)


def names(store: JobStore, job_id: str) -> list[str]:
    return [event.name for event in store.events(job_id)]
