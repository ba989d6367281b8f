"""Conformance of job stores: every backend passes these tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from groundwork.errors import RunError
from serving.jobs.job import (
    JobNotFoundError,
    JobSettings,
    JobTerms,
    Lease,
    LeaseLostError,
)
from serving.jobs.sql import SqlJobStore
from serving.jobs.store import JobStore
from tests.support.stores import Clock, claim, names


def test_a_job_walks_through_both_stages_and_ends_completed(store: JobStore, settings: JobSettings) -> None:
    assert store.create("a", settings).job.status == "queued"
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
    assert first.job == second.job
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


def test_facts_count_what_waits_and_the_seconds_to_do(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=2.0)
    for job_id in "abc":
        store.create(job_id, settings)
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=3)
    facts = store.facts()
    assert (facts.queued, facts.in_progress, facts.held, facts.workers) == (2, 1, 1, 1)
    assert facts.outstanding_seconds == pytest.approx(2 * (1 + 4 + 4))


def test_an_estimate_counts_what_is_before_a_job(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=2.0)
    store.timed("decode", settings, units=1.0, seconds=1.0)
    for job_id in "abc":
        store.create(job_id, settings)
    claim(store)
    found = [store.estimate(job_id) for job_id in "abc"]
    assert [one and one.position for one in found] == [0, 0, 1]
    assert [one and one.eta_seconds.p50 for one in found] == pytest.approx([9.0, 17.0, 25.0])
    store.cancel("c")
    assert store.estimate("c") is None


def test_steps_that_were_never_timed_are_guessed_by_their_arithmetic(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=2.0)
    larger = settings.model_copy(update={"num_frames": 17})
    store.create("a", larger, JobTerms(step_tflop=2.5))
    assert store.facts().outstanding_seconds == pytest.approx(4 * 5.0)


def test_many_writers_give_each_job_to_one_worker(new_postgres: Callable[[], str], settings: JobSettings) -> None:
    database = new_postgres()
    stores = [SqlJobStore(database) for _ in range(4)]
    for number in range(24):
        stores[number % 4].create(f"job-{number}", settings, JobTerms(owner=f"owner-{number % 3}"))

    def work(store: SqlJobStore) -> list[str]:
        taken = []
        while (job := store.claim("denoise", worker="w", lease_seconds=60)) is not None:
            store.renew(Lease(job_id=job.id, epoch=job.epoch), lease_seconds=60, step=1, step_seconds=1.0)
            taken.append(job.id)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [job_id for found in pool.map(work, stores) for job_id in found]
    assert sorted(taken) == sorted(f"job-{number}" for number in range(24))
    for store in stores:
        store.close()


def test_all_of_it_survives_a_restart(database: str, store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=2, checkpoint="state-2")
    before = store.get("a")
    store.close()
    again = SqlJobStore(database, clock=clock)
    assert again.get("a") == before
    assert names(again, "a") == ["queued", "started", "progress", "checkpoint"]
    again.renew(lease, lease_seconds=10, step=3)
    again.close()


def test_a_database_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite"
    SqlJobStore(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE layout SET number = 99")
    with pytest.raises(RunError, match="layout 99"):
        SqlJobStore(path)
    garbage = path.with_name("garbage.sqlite")
    garbage.write_bytes(b"this is not a database at all" * 100)
    with pytest.raises(RunError, match="cannot be used"):
        SqlJobStore(garbage)
    for address, reason in (
        ("mysql://host/name", "not known"),
        ("postgresql://me:secret@127.0.0.1/name", "holds a password"),
        ("postgresql://me@127.0.0.1:1/name", "cannot be used"),
    ):
        with pytest.raises(RunError, match=reason):
            SqlJobStore(address)
