"""Conformance of job stores: every backend passes these tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwork.errors import RunError
from serving.jobs.job import Job, JobNotFoundError, JobSettings, Lease, LeaseLostError
from serving.jobs.sqlite import SqliteJobStore
from serving.jobs.store import JobStore


class Clock:
    """Time that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "jobs.sqlite"


@pytest.fixture
def store(path: Path, clock: Clock) -> Iterator[JobStore]:
    store = SqliteJobStore(path, max_losses=2, clock=clock)
    yield store
    store.close()


def claim(
    store: JobStore, *, stage: str = "denoise", worker: str = "w", lease_seconds: float = 10
) -> tuple[Job, Lease]:
    job = store.claim(stage, worker=worker, lease_seconds=lease_seconds)  # type: ignore[arg-type]
    assert job is not None
    return job, Lease(job_id=job.id, epoch=job.epoch)


def names(store: JobStore, job_id: str) -> list[str]:
    return [event.name for event in store.events(job_id)]


def test_a_job_walks_through_both_stages_and_ends_completed(store: JobStore, settings: JobSettings) -> None:
    assert store.create("a", settings).status == "queued"
    job, lease = claim(store)
    assert (job.status, job.attempt, job.epoch) == ("in_progress", 1, 1)
    store.renew(lease, lease_seconds=10, step=1)
    store.hand_over(lease, latent_sha256="l", seconds=2.0)
    assert store.claim("denoise", worker="w", lease_seconds=10) is None
    job, lease = claim(store, stage="decode")
    assert (job.latent_sha256, job.attempt, job.step) == ("l", 1, 1)
    store.complete(lease, video_sha256="v", seconds=1.0)
    done = store.get("a")
    assert (done.status, done.video_sha256, done.stage_seconds) == ("completed", "v", {"denoise": 2.0, "decode": 1.0})
    assert names(store, "a") == ["queued", "started", "progress", "denoised", "decoding", "completed"]


def test_creating_the_same_id_twice_makes_one_job(store: JobStore, settings: JobSettings) -> None:
    first, second = store.create("a", settings), store.create("a", settings)
    assert first == second
    assert store.facts().queued == 1


def test_jobs_are_claimed_oldest_first_and_by_one_worker_each(store: JobStore, settings: JobSettings) -> None:
    for job_id in "abc":
        store.create(job_id, settings)
    assert [claim(store, worker=w)[0].id for w in "xyz"] == ["a", "b", "c"]
    assert store.claim("denoise", worker="w", lease_seconds=10) is None


def test_an_expired_lease_goes_to_the_next_worker_with_the_checkpoint(
    store: JobStore, settings: JobSettings, clock: Clock
) -> None:
    store.create("a", settings)
    _, lease = claim(store, worker="first")
    store.renew(lease, lease_seconds=10, step=2, checkpoint="state-2")
    clock.now += 10.5
    job, lease = claim(store, worker="second")
    assert (job.checkpoint, job.attempt, job.losses, job.worker) == ("state-2", 2, 1, "second")
    store.resumed(lease, step=2)
    assert store.get("a").resumed_from_step == 2


def test_a_worker_that_was_taken_for_dead_is_refused(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    _, old = claim(store)
    clock.now += 11
    _, new = claim(store)
    for late in (
        lambda: store.renew(old, lease_seconds=10, step=3),
        lambda: store.hand_over(old, latent_sha256="late", seconds=1),
        lambda: store.complete(old, video_sha256="late", seconds=1),
        lambda: store.fail(old, code="internal", message="late"),
        lambda: store.resumed(old, step=1),
    ):
        with pytest.raises(LeaseLostError):
            late()
    store.release(old)  # no error, no effect
    store.hand_over(new, latent_sha256="good", seconds=1)
    assert store.get("a").latent_sha256 == "good"


def test_renewing_keeps_a_lease_alive(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    for _ in range(5):
        clock.now += 6
        store.renew(lease, lease_seconds=10)
        assert store.claim("denoise", worker="other", lease_seconds=10) is None


def test_a_lease_that_expired_but_was_not_taken_over_is_still_good(
    store: JobStore, settings: JobSettings, clock: Clock
) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    clock.now += 100
    store.hand_over(lease, latent_sha256="l", seconds=1)
    assert store.get("a").stage == "decode"


def test_handing_over_and_completing_twice_has_one_effect(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    for _ in range(2):
        store.hand_over(lease, latent_sha256="l", seconds=1)
    _, lease = claim(store, stage="decode")
    for _ in range(2):
        store.complete(lease, video_sha256="v", seconds=1)
    assert store.get("a").stage_seconds == {"denoise": 1, "decode": 1}
    assert names(store, "a").count("completed") == 1


def test_a_released_job_can_be_claimed_at_once_and_counts_no_loss(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    assert store.holds_leases()
    store.release(lease)
    assert not store.holds_leases()
    assert claim(store)[0].losses == 0


def test_a_job_that_loses_too_many_workers_fails(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    for _ in range(2):
        claim(store)
        clock.now += 11
    assert store.claim("denoise", worker="w", lease_seconds=10) is None
    job = store.get("a")
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "worker_lost"


def test_cancelling_closes_the_job_and_tells_the_worker(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    job = store.cancel("a")
    assert job.status == "failed"
    assert job.error is not None
    assert job.error.code == "cancelled"
    assert store.renew(lease, lease_seconds=10, step=1).cancel
    assert store.cancel("a") == job
    with pytest.raises(LeaseLostError):
        store.hand_over(lease, latent_sha256="l", seconds=1)


def test_cancelling_a_completed_job_changes_nothing(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    store.hand_over(claim(store)[1], latent_sha256="l", seconds=1)
    store.complete(claim(store, stage="decode")[1], video_sha256="v", seconds=1)
    assert store.cancel("a").status == "completed"


def test_deleting_removes_job_and_events_and_ends_the_lease(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    store.delete("a")
    with pytest.raises(JobNotFoundError):
        store.get("a")
    with pytest.raises(JobNotFoundError):
        store.events("a")
    with pytest.raises(LeaseLostError):
        store.renew(lease, lease_seconds=10)


def test_pages_follow_each_other_without_gap_or_overlap(store: JobStore, settings: JobSettings) -> None:
    for number in range(7):
        store.create(f"job-{number}", settings)
    for order in ("asc", "desc"):
        seen: list[str] = []
        more = True
        while more:
            jobs, more = store.page(after=seen[-1] if seen else None, limit=3, order=order)  # type: ignore[arg-type]
            seen += [job.id for job in jobs]
        assert seen == sorted((f"job-{n}" for n in range(7)), reverse=order == "desc")


def test_events_are_numbered_from_one_and_replayed_after_any(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=1)
    store.renew(lease, lease_seconds=10)  # a mere sign of life is no event
    store.renew(lease, lease_seconds=10, checkpoint="c")
    events = store.events("a")
    assert [event.number for event in events] == [1, 2, 3, 4]
    assert [event.name for event in store.events("a", after=2)] == ["progress", "checkpoint"]


def test_facts_count_waiting_jobs_and_steps_to_do(store: JobStore, settings: JobSettings) -> None:
    for job_id in "abc":
        store.create(job_id, settings)
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=3)
    facts = store.facts()
    assert (facts.queued, facts.in_progress, facts.outstanding_steps) == (2, 1, 1 + 4 + 4)
    assert store.queue_position("c") == 2


def test_all_of_it_survives_a_restart(path: Path, store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=2, checkpoint="state-2")
    before = store.get("a")
    store.close()
    again = SqliteJobStore(path, clock=clock)
    assert again.get("a") == before
    assert names(again, "a") == ["queued", "started", "progress", "checkpoint"]
    again.renew(lease, lease_seconds=10, step=3)
    again.close()


def test_a_database_of_another_version_or_kind_is_refused(path: Path, store: JobStore) -> None:
    store.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    with pytest.raises(RunError, match="layout 99"):
        SqliteJobStore(path)
    garbage = path.with_name("garbage.sqlite")
    garbage.write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        SqliteJobStore(garbage)
