"""Decisions are pure functions of facts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from serving.autoscaling import FollowTheWork
from serving.jobs.job import Job, JobSettings, QueueFacts
from serving.scheduling import accepts, poll_after_ms, progress_percent, wanted_denoisers


def job(settings: JobSettings, **changes: object) -> Job:
    times = ["started_at", "completed_at", "cancelled_at", "lease_until"]
    names = ["worker", "checkpoint", "latent_sha256", "video_sha256", "resumed_from_step", "error"]
    empty = dict.fromkeys(times + names)
    counts = {"step": 0, "attempt": 0, "losses": 0, "epoch": 0, "cancel_requested": False, "stage_seconds": {}}
    fixed = {"number": 1, "id": "a", "settings": settings, "status": "queued", "stage": "denoise", "created_at": 0.0}
    return Job.model_validate(fixed | empty | counts | changes)


def test_a_full_queue_accepts_nothing_more() -> None:
    facts = QueueFacts(queued=3, in_progress=9, outstanding_steps=0)
    assert accepts(facts, max_queued_jobs=4)
    assert not accepts(facts, max_queued_jobs=3)


def test_progress_reaches_100_only_with_the_file(settings: JobSettings) -> None:
    steps = [progress_percent(job(settings, step=step, status="in_progress")) for step in range(5)]
    assert steps == [0, 23, 47, 71, 95]
    assert progress_percent(job(settings, step=4, status="completed")) == 100


def test_polling_slows_down_with_the_rest_of_the_work_and_stays_in_bounds(settings: JobSettings) -> None:
    running = job(settings, status="in_progress", step=1, started_at=0.0)
    assert poll_after_ms(running, queue_position=0, now=20.0) == 6000
    assert poll_after_ms(running, queue_position=0, now=1e6) == 15_000
    assert poll_after_ms(running, queue_position=0, now=0.001) == 500
    assert poll_after_ms(job(settings), queue_position=3, now=0.0) == 2000


@pytest.mark.parametrize(
    ("steps", "seconds", "busy", "wanted"),
    [(0, 1.0, 0, 0), (60, 1.0, 1, 1), (61, 1.0, 1, 2), (600, 1.0, 1, 10), (0, 1.0, 3, 3)],
)
def test_denoisers_follow_the_outstanding_work_and_busy_ones_stay(
    steps: int, seconds: float, busy: int, wanted: int
) -> None:
    found = wanted_denoisers(outstanding_steps=steps, step_seconds=seconds, clear_queue_seconds=60, busy=busy)
    assert found == wanted


@pytest.mark.parametrize(
    ("reported", "wanted"), [({}, 1), ({"outstanding_steps": {"a": 9e9}, "step_seconds": {"a": 1.0}}, 4)]
)
def test_the_policy_stays_within_the_configured_bounds(reported: dict[str, dict[str, float]], wanted: int) -> None:
    context = SimpleNamespace(
        aggregated_metrics=reported, capacity_adjusted_min_replicas=1, capacity_adjusted_max_replicas=4
    )
    assert FollowTheWork(clear_queue_seconds=60)(context) == (wanted, {})  # type: ignore[arg-type]
