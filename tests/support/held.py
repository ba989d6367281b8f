"""A job in the hands of a worker, without a store: what the worker says of it is written down."""

from __future__ import annotations

from typing import Any

from serving.jobs.job import Job, JobSettings, JobTerms, Lease, Orders
from serving.worker import Held


class Reports:
    """What the worker says, in order; `stop_at` is the step after which it is told to release."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.told = stop_at, list[tuple[str, dict[str, Any]]]()

    async def claim(self, *_: Any, **__: Any) -> Job | None:
        return None

    async def renew(self, lease: Lease, **report: Any) -> Orders:
        return Orders(release=report["step"] is not None and report["step"] == self.stop_at)

    async def call(self, method: str, *_: Any, **facts: Any) -> None:
        self.told.append((method, facts))


def hold(settings: JobSettings, reports: Reports, *, checkpoint: str | None = None, **terms: Any) -> Held:
    times = ["started_at", "completed_at", "cancelled_at", "lease_until"]
    empty = dict.fromkeys([*times, "resumed_from_step", "worker", "latent_sha256", "video_sha256", "error"])
    counts = {"number": 1, "created_at": 0.0, "step": 0, "attempt": 1, "losses": 0, "epoch": 1, "stage_seconds": {}}
    fixed = {"id": "a", "status": "in_progress", "stage": "denoise", "cancel_requested": False}
    job = Job(settings=settings, terms=JobTerms(**terms), checkpoint=checkpoint, **empty, **counts, **fixed)
    return Held(job, Lease(job_id="a", epoch=1), reports, 60.0, lambda: False, checkpoint)
