"""Facts become decisions: whether a job is accepted, when to ask again, how many denoisers there should be. Pure."""

from __future__ import annotations

import math

from serving.jobs.job import Job, QueueFacts

_POLL_FASTEST_MS, _POLL_SLOWEST_MS = 500, 15_000


def accepts(facts: QueueFacts, *, max_queued_jobs: int) -> bool:
    """Whether one more job may wait."""
    return facts.queued < max_queued_jobs


def poll_after_ms(job: Job, *, queue_position: int, now: float) -> int:
    """Milliseconds until asking for a job again makes sense: a tenth of the rest, 0.5 to 15 s.

    The rest is read off the steps done so far; of a job that waits only its place in the queue is known.
    """
    if job.is_final:
        return _POLL_FASTEST_MS
    if job.started_at is None or job.step == 0:
        rest_seconds = 5.0 * (queue_position + 1)
    else:
        rest_seconds = (now - job.started_at) / job.step * (job.settings.steps - job.step)
    return int(min(max(rest_seconds * 100, _POLL_FASTEST_MS), _POLL_SLOWEST_MS))


def progress_percent(job: Job) -> int:
    """0 to 100: denoising counts up to 95, decoding and encoding are the rest; 100 means that the file is there."""
    if job.status == "completed":
        return 100
    return min(95, 95 * job.step // job.settings.steps)


def wanted_denoisers(*, outstanding_steps: float, step_seconds: float, clear_queue_seconds: float, busy: int) -> int:
    """Replicas that finish the outstanding steps within `clear_queue_seconds`, never fewer than are at work now.

    Counting work instead of requests matters: one request may cost forty times another. A replica that works is
    never wished away, since its job would have to move. `step_seconds` 0 means that no step was timed yet.
    """
    return max(busy, math.ceil(outstanding_steps * step_seconds / clear_queue_seconds))
