"""Facts become decisions: which job is next, who makes room, whether a job is accepted, how many denoisers. Pure.

Between owners (API keys) the one who was served least, by weight, is next: start-time fair queueing in denoise-seconds.
Within an owner: priority, then who would miss a deadline, then the shortest rest, where waiting counts in one's favour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from groundwork.config import FrozenModel
from serving.jobs.job import Job, JobTerms, Seconds

_POLL_FASTEST_MS, _POLL_SLOWEST_MS = 500, 15_000
_AGING = 0.25  # a second of waiting counts like so many seconds less to do
_EXACT_JOBS = 300  # above so many, a finish is estimated from sums instead of played through


class Contender(FrozenModel):
    """An accepted, unfinished job as the scheduler sees it; times in Unix seconds."""

    job_id: str
    number: int
    owner: str
    weight: float = 1.0
    priority: int = 0
    deadline: float | None = None
    waiting_since: float
    rest_seconds: float
    """Denoising that is left, on one denoiser."""
    after_seconds: float = 0.0
    """Decoding and encoding that follow."""
    served: float = 0.0
    """Denoise-seconds that the owner has had, over the owner's weight."""
    running: bool = False
    """A denoiser has it at hand."""


class Limits(FrozenModel):
    """What a service, and one owner in it, may have at most; None: no limit."""

    max_queued_jobs: int = 100
    """Jobs that wait, of all owners together."""
    max_wait_seconds: float = 86_400.0
    """Longest wait that is predicted for an accepted job, until its denoising begins."""
    owner_queued_jobs: int | None = None
    owner_seconds_per_day: float | None = None
    """Denoise-seconds of one owner in 24 hours, what is accepted but not done included."""


class Estimate(FrozenModel):
    """When a job would be done, in seconds from now, and what is before it."""

    position: int
    """Jobs that are expected to be denoised before it."""
    wait_seconds: float
    eta_seconds: Seconds


class Refusal(FrozenModel):
    """Why a job is not accepted now."""

    code: Literal["queue_full", "quota_exceeded", "deadline_unmeetable"]
    message: str
    retry_after_seconds: float | None = Field(default=None, ge=0)
    """None: asking again does not help."""


def pick(contenders: Sequence[Contender], *, now: float) -> Contender | None:
    """Who is next among those given."""
    if not contenders:
        return None
    served = min(contender.served for contender in contenders)
    owners = {contender.owner for contender in contenders if contender.served == served}
    of_owners = [contender for contender in contenders if contender.owner in owners]
    return min(of_owners, key=lambda contender: _rank(contender, now))


def yields(running: Contender, waiting: Sequence[Contender], *, held_seconds: float, slice_seconds: float) -> bool:
    """Whether a running job makes room at its step boundary, with its state saved.

    Only after `slice_seconds`, and only for a job that has less left to do, or that its own owner wants more. So a
    short draft does not wait behind a long film, and two equal jobs are not cut into slices for nothing.
    """
    if held_seconds < slice_seconds or not waiting:
        return False
    now = running.waiting_since  # the caller dates the running job at the present: it has not waited
    rival = pick([*waiting, running], now=now)
    if rival is None or rival.job_id == running.job_id:
        return False
    if rival.owner == running.owner and (rival.priority, _is_urgent(rival, now)) > (
        running.priority,
        _is_urgent(running, now),
    ):
        return True
    return rival.rest_seconds < running.rest_seconds


def _rank(contender: Contender, now: float) -> tuple[int, bool, float, int]:
    aged = contender.rest_seconds - _AGING * (now - contender.waiting_since)
    return (-contender.priority, not _is_urgent(contender, now), aged, contender.number)


def _is_urgent(contender: Contender, now: float) -> bool:
    """Whether it would miss its deadline, were it to begin one more length of itself later."""
    if contender.deadline is None:
        return False
    return now + 2 * contender.rest_seconds + contender.after_seconds > contender.deadline


def estimate(new: Contender, others: Sequence[Contender], *, workers: int, spread: float, now: float) -> Estimate:
    """When `new` would be done if nothing else came, and at the latest that is likely.

    `spread` is the relative deviation of measured steps. The likely latest takes everything accepted as being ahead.
    """
    workers = max(1, workers)
    position, wait = _played(new, others, workers=workers, now=now)
    everything = sum(other.rest_seconds for other in others)
    length = new.rest_seconds + new.after_seconds
    slowest = max((other.rest_seconds for other in others if other.running), default=0.0)
    late = (max(wait, everything / workers, slowest if len(others) >= workers else 0.0) + length) * (1 + 2 * spread)
    return Estimate(position=position, wait_seconds=wait, eta_seconds=Seconds(p50=wait + length, p95=late))


def _played(new: Contender, others: Sequence[Contender], *, workers: int, now: float) -> tuple[int, float]:
    """How many are denoised before `new`, and seconds until it begins: the queue played through, without arrivals."""
    if new.running:
        return 0, 0.0
    waiting = [other for other in others if not other.running and other.rest_seconds > 0]
    free = sorted([other.rest_seconds for other in others if other.running] + [0.0] * workers)[-workers:]
    if len(waiting) > _EXACT_JOBS:
        total = sum(free) + sum(other.rest_seconds for other in waiting)
        return len(waiting), total / workers
    extra = {contender.owner: 0.0 for contender in (*waiting, new)}
    queue = [*waiting, new]
    for position in range(len(queue)):
        free.sort()
        begun = free[0]
        ahead = [one.model_copy(update={"served": one.served + extra[one.owner]}) for one in queue]
        chosen = pick(ahead, now=now + begun)
        assert chosen is not None
        if chosen.job_id == new.job_id:
            return position, begun
        free[0] = begun + chosen.rest_seconds
        extra[chosen.owner] += chosen.rest_seconds / chosen.weight
        queue = [one for one in queue if one.job_id != chosen.job_id]
    raise AssertionError("the new job is one of the queue")


def refusal(
    new: Contender, expected: Estimate, others: Sequence[Contender], limits: Limits, *, used_today: float, now: float
) -> Refusal | None:
    """Why `new` is not accepted beside `others`, None when it is. `used_today` are the owner's denoise-seconds."""
    waiting = [other for other in others if not other.running]
    of_owner = [other for other in others if other.owner == new.owner]
    soon = max(1.0, min((other.rest_seconds for other in others), default=1.0))
    if len(waiting) >= limits.max_queued_jobs:
        return Refusal(code="queue_full", message=f"{len(waiting)} jobs are waiting already.", retry_after_seconds=soon)
    if limits.owner_queued_jobs is not None and len(of_owner) >= limits.owner_queued_jobs:
        message = f"{len(of_owner)} of your jobs are not done yet, and your key allows {limits.owner_queued_jobs}."
        return Refusal(code="queue_full", message=message, retry_after_seconds=soon)
    if expected.wait_seconds > limits.max_wait_seconds:
        most = f"at most {limits.max_wait_seconds:.0f} s are accepted"
        message = f"The wait would be {expected.wait_seconds:.0f} s, and {most}."
        late = expected.wait_seconds - limits.max_wait_seconds
        return Refusal(code="queue_full", message=message, retry_after_seconds=late)
    if limits.owner_seconds_per_day is not None:
        used = used_today + sum(other.rest_seconds for other in of_owner) + new.rest_seconds
        if used > limits.owner_seconds_per_day:
            message = f"This would be {used:.0f} of {limits.owner_seconds_per_day:.0f} denoise-seconds in 24 hours."
            return Refusal(code="quota_exceeded", message=message, retry_after_seconds=3600.0)
    if new.deadline is not None and now + expected.eta_seconds.p95 > new.deadline:
        message = (
            f"It would be done in {expected.eta_seconds.p50:.0f} to {expected.eta_seconds.p95:.0f} s, "
            f"after the deadline in {new.deadline - now:.0f} s."
        )
        return Refusal(code="deadline_unmeetable", message=message)
    return None


def wanted_denoisers(*, backlog: Sequence[tuple[float, float | None]], busy: int, clear_queue_seconds: float) -> int:
    """Replicas that finish the backlog within `clear_queue_seconds` and each deadline, never fewer than are at work.

    `backlog` holds (denoise-seconds left, seconds until the deadline or None) per unfinished job. Counting work instead
    of requests matters: one request may cost forty times another. A replica that works is never wished away, since its
    job would have to move. Deadlines: before each one, all work that is due by then must fit.
    """
    total = sum(rest for rest, _ in backlog)
    wanted = math.ceil(total / clear_queue_seconds - 1e-9)
    due = 0.0
    for left, rest in sorted((left, rest) for rest, left in backlog if left is not None and left > 0):
        due += rest
        wanted = max(wanted, math.ceil(due / left - 1e-9))
    # A job of which nothing was measured yet has no rest that could be told, and still needs one.
    return max(busy, min(max(wanted, 1), len(backlog)))


def new_contender(
    terms: JobTerms, *, rest_seconds: float, after_seconds: float, served: float, now: float
) -> Contender:
    """A job that asks to be accepted: behind all others of its rank."""
    return Contender(
        job_id="",
        number=2**62,
        owner=terms.owner,
        weight=terms.weight,
        priority=terms.priority,
        deadline=terms.deadline,
        waiting_since=now,
        rest_seconds=rest_seconds,
        after_seconds=after_seconds,
        served=served,
    )


def poll_after_ms(job: Job, *, eta_seconds: float | None) -> int:
    """Milliseconds until asking for a job again makes sense: a tenth of the rest, 0.5 to 15 s."""
    if job.is_final or eta_seconds is None:
        return _POLL_FASTEST_MS
    return int(min(max(eta_seconds * 100, _POLL_FASTEST_MS), _POLL_SLOWEST_MS))


def progress_percent(job: Job) -> int:
    """0 to 100: denoising counts up to 95, decoding and encoding are the rest; 100 means that the file is there."""
    if job.status == "completed":
        return 100
    return min(95, 95 * job.step // job.settings.steps_to_run)
