"""Decisions are pure functions of facts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from serving.autoscaling import FollowTheWork
from serving.jobs.job import Job, JobSettings
from serving.scheduling import (
    Contender,
    estimate,
    pick,
    poll_after_ms,
    progress_percent,
    wanted_denoisers,
    yields,
)


def job(settings: JobSettings, **changes: object) -> Job:
    times = ["started_at", "completed_at", "cancelled_at", "lease_until"]
    names = ["worker", "checkpoint", "latent_sha256", "video_sha256", "resumed_from_step", "error"]
    empty = dict.fromkeys(times + names)
    counts = {"step": 0, "attempt": 0, "losses": 0, "epoch": 0, "cancel_requested": False, "stage_seconds": {}}
    fixed = {"number": 1, "id": "a", "settings": settings, "status": "queued", "stage": "denoise", "created_at": 0.0}
    return Job.model_validate(fixed | empty | counts | changes)


def test_progress_reaches_100_only_with_the_file(settings: JobSettings) -> None:
    steps = [progress_percent(job(settings, step=step, status="in_progress")) for step in range(5)]
    assert steps == [0, 23, 47, 71, 95]
    assert progress_percent(job(settings, step=4, status="completed")) == 100


def test_polling_slows_down_with_the_rest_of_the_work_and_stays_in_bounds(settings: JobSettings) -> None:
    running = job(settings, status="in_progress", step=1, started_at=0.0)
    found = [poll_after_ms(running, eta_seconds=rest) for rest in (60.0, 1e6, 0.01, None)]
    assert found == [6000, 15_000, 500, 500]
    assert poll_after_ms(job(settings, status="failed"), eta_seconds=60.0) == 500


def contender(name: str, rest: float, **changes: Any) -> Contender:
    fixed = {"job_id": name, "number": ord(name[0]), "owner": "", "waiting_since": 0.0, "rest_seconds": rest}
    return Contender.model_validate(fixed | changes)


def first(*line: Contender, now: float = 0.0) -> str:
    chosen = pick(line, now=now)
    assert chosen is not None
    return chosen.job_id


def test_equal_jobs_go_by_arrival_and_shorter_ones_pass() -> None:
    assert pick([], now=0.0) is None
    assert first(contender("a", 10), contender("b", 10)) == "a"
    assert first(contender("a", 10), contender("b", 5)) == "b"


def test_waiting_counts_so_that_nobody_is_passed_for_ever() -> None:
    film = contender("a", 600)
    assert first(film, contender("b", 10, waiting_since=1000.0), now=1000.0) == "b"
    assert first(film, contender("b", 10, waiting_since=3000.0), now=3000.0) == "a"


def test_priority_counts_among_the_jobs_of_one_owner_only() -> None:
    assert first(contender("a", 10), contender("b", 100, priority=1)) == "b"
    pushy = contender("b", 10, priority=9, owner="pushy", served=5.0)
    assert first(contender("a", 10, owner="modest", served=1.0), pushy) == "a"


def test_a_job_that_would_miss_its_deadline_passes_those_with_time() -> None:
    urgent = contender("b", 50, deadline=90.0)
    assert first(contender("a", 10), urgent) == "b"
    assert first(contender("a", 10), urgent.model_copy(update={"deadline": 1000.0})) == "a"


def test_a_running_job_yields_to_a_shorter_one_only_after_its_slice() -> None:
    film, draft = contender("a", 600, running=True), contender("b", 10)
    assert not yields(film, [draft], held_seconds=29, slice_seconds=30)
    assert yields(film, [draft], held_seconds=31, slice_seconds=30)
    assert not yields(film, [], held_seconds=31, slice_seconds=30)
    assert not yields(film, [contender("b", 600)], held_seconds=31, slice_seconds=30)
    assert not yields(film, [contender("b", 700, waiting_since=-1e6)], held_seconds=31, slice_seconds=30)


def test_a_running_job_yields_to_another_owner_who_was_served_less() -> None:
    film = contender("a", 600, running=True, owner="a", served=100.0)
    assert yields(film, [contender("b", 10, owner="b", served=50.0)], held_seconds=31, slice_seconds=30)
    assert not yields(film, [contender("b", 10, owner="b", served=150.0)], held_seconds=31, slice_seconds=30)


def test_an_estimate_plays_the_queue_through() -> None:
    others = [contender("a", 30, running=True), contender("b", 20), contender("c", 50)]
    new = contender("z", 40, after_seconds=5.0)
    found = estimate(new, others, workers=1, spread=0.0, now=0.0)
    assert (found.position, found.wait_seconds, found.eta_seconds.p50) == (1, 50.0, 95.0)
    assert found.eta_seconds.p95 == 145.0  # everything accepted goes first
    assert estimate(new, others, workers=2, spread=0.0, now=0.0).wait_seconds == 20.0
    assert estimate(new, [], workers=0, spread=0.5, now=0.0).eta_seconds.p95 == 90.0


def test_an_estimate_follows_the_shares_of_owners() -> None:
    flood = [contender(name, 10, owner="flood", served=0.0) for name in "abcdef"]
    found = estimate(contender("z", 10, owner="modest"), flood, workers=1, spread=0.0, now=0.0)
    assert found.position == 1


def test_a_thousand_waiting_jobs_are_estimated_from_sums() -> None:
    others = [contender("a", 2.0) for _ in range(1000)]
    assert estimate(contender("z", 2.0), others, workers=4, spread=0.0, now=0.0).wait_seconds == 500.0


@pytest.mark.parametrize(
    ("backlog", "busy", "wanted"),
    [
        ([], 0, 0),
        ([(0.0, None)], 0, 1),
        ([(60.0, None)], 1, 1),
        ([(31.0, None), (30.0, None)], 1, 2),
        ([(600.0, None)], 1, 1),
        ([(60.0, None)] * 20, 1, 20),
        ([], 3, 3),
        ([(20.0, 20.0), (20.0, 20.0)], 1, 2),
        ([(20.0, 20.0), (20.0, 1000.0)], 1, 1),
        ([(20.0, -5.0)], 0, 1),
    ],
)
def test_denoisers_follow_work_and_deadlines_and_busy_ones_stay(
    backlog: list[tuple[float, float | None]], busy: int, wanted: int
) -> None:
    assert wanted_denoisers(backlog=backlog, busy=busy, clear_queue_seconds=60) == wanted


@pytest.mark.parametrize(
    ("reported", "replicas", "queued", "wanted"),
    [({}, 1, 0, 0), ({"wanted": {"a": 9.0, "b": 9.0}}, 2, 0, 4), ({}, 0, 1, 1), ({"wanted": {"a": 0.0}}, 1, 1, 0)],
)
def test_the_policy_stays_within_bounds_and_wakes_from_zero(
    reported: dict[str, dict[str, float]], replicas: int, queued: int, wanted: int
) -> None:
    context = SimpleNamespace(
        aggregated_metrics=reported,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=4,
        current_num_replicas=replicas,
        total_queued_requests=queued,
    )
    assert FollowTheWork()(context) == (wanted, {})  # type: ignore[arg-type]
