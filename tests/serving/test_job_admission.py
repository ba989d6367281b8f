"""Conformance of job stores, second half: who is accepted, who is next, what is told to others."""

from __future__ import annotations

import pytest

from serving.jobs.job import (
    JobNotFoundError,
    JobSettings,
    JobTerms,
    KeyReusedError,
    LeaseLostError,
    Reference,
    RefusedError,
    Webhook,
)
from serving.jobs.store import JobStore
from serving.scheduling import Limits
from tests.support.stores import Clock, claim, names


def test_an_idempotency_key_makes_one_job_per_owner(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    terms = JobTerms(owner="ann", idempotency_key="k", request_sha256="r")
    first = store.create("a", settings, terms)
    again = store.create("b", settings, terms)
    assert (first.replayed, again.replayed, again.job.id) == (False, True, "a")
    assert not store.create("c", settings, terms.model_copy(update={"owner": "bob"})).replayed
    with pytest.raises(KeyReusedError):
        store.create("d", settings, terms.model_copy(update={"request_sha256": "other"}))
    clock.now += 90_000
    assert not store.create("e", settings, terms).replayed


def test_a_request_that_the_client_repeats_by_itself_makes_one_job(
    store: JobStore, settings: JobSettings, clock: Clock
) -> None:
    terms = JobTerms(request_sha256="r")
    store.create("a", settings, terms)
    assert store.create("b", settings, terms).job.id == "b"  # said twice on purpose: two jobs
    assert store.create("c", settings, terms, retried=True).job.id == "b"
    assert store.create("d", settings, JobTerms(request_sha256="s"), retried=True).job.id == "d"
    clock.now += 61
    assert store.create("e", settings, terms, retried=True).job.id == "e"


def test_who_was_served_least_is_next(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    for number in range(4):
        store.create(f"flood-{number}", settings, JobTerms(owner="flood"))
    store.create("modest", settings, JobTerms(owner="modest"))
    _, lease = claim(store)
    store.renew(lease, lease_seconds=10, step=1, step_seconds=3.0)
    assert claim(store)[0].id == "modest"


def test_a_heavier_weight_gets_more(store: JobStore, settings: JobSettings) -> None:
    for number in range(6):
        for owner, weight in (("light", 1.0), ("heavy", 2.0)):
            store.create(f"{owner}-{number}", settings, JobTerms(owner=owner, weight=weight))
    taken = []
    for _ in range(6):
        job, lease = claim(store)
        taken.append(job.terms.owner)
        store.renew(lease, lease_seconds=10, step=4, step_seconds=1.0)
        store.hand_over(lease, latent_sha256="l", seconds=4)
    assert (taken.count("heavy"), taken.count("light")) == (4, 2)


def test_who_was_away_comes_back_without_credit(store: JobStore, settings: JobSettings) -> None:
    for number in range(3):
        store.create(f"a{number}", settings, JobTerms(owner="a"))
    for _ in range(2):
        _, lease = claim(store)
        store.renew(lease, lease_seconds=10, step=4, step_seconds=10.0)
        store.hand_over(lease, latent_sha256="l", seconds=1)
    for number in range(2):
        store.create(f"b{number}", settings, JobTerms(owner="b"))
    _, lease = claim(store)  # a2 came first, and both stand equal
    store.renew(lease, lease_seconds=10, step=1, step_seconds=1.0)
    assert claim(store)[0].terms.owner == "b"


def test_a_long_job_makes_room_for_a_short_one_after_its_slice(
    store: JobStore, settings: JobSettings, clock: Clock
) -> None:
    store.timed("denoise", settings, units=1.0, seconds=10.0)
    long, short = (settings.model_copy(update={"steps": steps}) for steps in (100, 2))
    store.create("film", long)
    _, film = claim(store)
    store.create("draft", short)
    assert not store.renew(film, lease_seconds=60, step=1, step_seconds=10.0).make_room  # its slice is not over
    clock.now += 6
    assert not store.renew(film, lease_seconds=60).make_room  # not at a step boundary
    assert store.renew(film, lease_seconds=60, step=2, step_seconds=10.0).make_room
    store.release(film, preempted=True)
    draft, lease = claim(store)
    assert draft.id == "draft"
    store.hand_over(lease, latent_sha256="l", seconds=20)
    again, _ = claim(store)
    assert (again.id, again.step, again.losses) == ("film", 2, 0)
    assert "preempted" in names(store, "film")


def test_two_equal_jobs_are_not_sliced(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings, JobTerms(owner="a"))
    store.create("b", settings, JobTerms(owner="b"))
    _, lease = claim(store)
    clock.now += 100
    assert not store.renew(lease, lease_seconds=60, step=1, step_seconds=1.0).make_room


def test_what_cannot_be_done_in_time_is_refused_before_it_waits(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=10.0)
    store.create("a", settings)
    for limits, code in (
        (Limits(max_queued_jobs=1), "queue_full"),
        (Limits(max_wait_seconds=30), "queue_full"),
        (Limits(owner_queued_jobs=1), "queue_full"),
        (Limits(owner_seconds_per_day=79), "quota_exceeded"),
    ):
        with pytest.raises(RefusedError) as refused:
            store.create("b", settings, limits=limits)
        assert refused.value.code == code
        assert refused.value.retry_after_seconds
    with pytest.raises(RefusedError) as late:
        store.create("b", settings, JobTerms(deadline=1_000_060.0), limits=Limits())
    assert (late.value.code, late.value.retry_after_seconds) == ("deadline_unmeetable", None)
    assert [job.id for job in store.page(after=None, limit=10, order="asc")[0]] == ["a"]
    store.create("b", settings, JobTerms(deadline=1_000_300.0), limits=Limits(owner_seconds_per_day=80))


def test_a_video_that_is_partly_redrawn_costs_the_steps_that_run(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=10.0)
    redrawn = settings.model_copy(update={"reference": Reference(kind="video", sha256="r", strength=0.5)})
    seconds, _ = store.quote("q", redrawn, JobTerms(), limits=Limits(), seconds=60)
    assert (redrawn.steps, redrawn.steps_to_run, seconds) == (4, 2, 20.0)


def test_a_quote_is_honoured_once_and_for_its_own_request(store: JobStore, settings: JobSettings) -> None:
    store.timed("denoise", settings, units=1.0, seconds=10.0)
    terms, limits = JobTerms(request_sha256="r"), Limits(max_queued_jobs=1)
    seconds, expected = store.quote("q", settings, terms, limits=limits, seconds=60)
    assert (seconds, expected.position) == (40.0, 0)
    store.create("a", settings)
    with pytest.raises(RefusedError):
        store.create("b", settings, JobTerms(request_sha256="other"), limits=limits, quote_id="q")
    assert store.create("b", settings, terms, limits=limits, quote_id="q").job.id == "b"
    with pytest.raises(RefusedError):
        store.create("c", settings, terms, limits=limits, quote_id="q")


def test_a_job_whose_deadline_passes_fails(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings, JobTerms(deadline=clock.now + 50))
    _, lease = claim(store)
    clock.now += 51
    store.tidy()
    job = store.get("a")
    assert job.error is not None
    assert job.error.code == "deadline_exceeded"
    with pytest.raises(LeaseLostError):
        store.hand_over(lease, latent_sha256="l", seconds=1)


def test_jobs_of_another_owner_are_not_there(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings, JobTerms(owner="ann"))
    store.create("b", settings, JobTerms(owner="bob"))
    assert store.get("a", owner="ann").id == "a"
    assert [job.id for job in store.page(after=None, limit=9, order="asc", owner="bob")[0]] == ["b"]
    for call in (store.get, store.cancel, store.delete, store.events):
        with pytest.raises(JobNotFoundError):
            call("a", owner="bob")
    with pytest.raises(JobNotFoundError):
        store.page(after="a", limit=9, order="asc", owner="bob")


def test_a_webhook_is_in_the_outbox_exactly_when_its_job_has_ended(
    store: JobStore, settings: JobSettings, clock: Clock
) -> None:
    hook = JobTerms(webhook=Webhook(url="http://a/b", events=("video.completed",)))
    store.create("a", settings, hook)
    store.create("b", settings, hook)
    store.cancel("b")  # of failures this one does not want to hear
    _, lease = claim(store)
    store.hand_over(lease, latent_sha256="l", seconds=1)
    assert store.due_deliveries() == []
    _, lease = claim(store, stage="decode")
    for _ in range(2):
        store.complete(lease, video_sha256="v", seconds=1)
    (delivery,) = store.due_deliveries()
    assert (delivery.job_id, delivery.event, delivery.url) == ("a", "video.completed", "http://a/b")
    store.delivered(delivery.id, again_in_seconds=5)
    assert store.due_deliveries() == []
    clock.now += 6
    assert store.due_deliveries()[0].attempts == 1
    store.delivered(delivery.id, again_in_seconds=None)
    clock.now += 1000
    assert store.due_deliveries() == []


def test_files_of_old_jobs_are_named_until_they_are_gone(store: JobStore, settings: JobSettings, clock: Clock) -> None:
    store.create("a", settings)
    _, lease = claim(store)
    store.hand_over(lease, latent_sha256="l", seconds=1)
    _, lease = claim(store, stage="decode")
    store.complete(lease, video_sha256="v", seconds=1)
    assert store.get("a").expires_at == clock.now + 100
    assert store.expired() == []
    clock.now += 101
    assert store.expired() == ["a"]
    store.files_gone("a")
    assert store.expired() == []
    assert store.get("a").status == "completed"


def test_tallies_grow_and_stay(store: JobStore, settings: JobSettings) -> None:
    store.create("a", settings, JobTerms(owner="ann"))
    _, lease = claim(store)
    store.hand_over(lease, latent_sha256="l", seconds=3.0)
    store.count("refused", "queue_full")
    store.delete("a")
    counted = {(name, label): value for name, label, value in store.tallies()}
    assert counted["accepted", "ann"] == 1
    assert counted["denoise_seconds", "5"] == 1
    assert counted["denoise_seconds", "sum"] == 3.0
    assert counted["refused", "queue_full"] == 1
