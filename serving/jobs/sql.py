"""The job store on SQLite (one writer) or Postgres (several): a transaction per call, every commit on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import RowMapping, and_, func, select, update

from serving.jobs import admission, ledger
from serving.jobs.job import (
    Accepted,
    Delivery,
    Event,
    Job,
    JobError,
    JobSettings,
    JobTerms,
    Lease,
    Orders,
    QueueFacts,
    Stage,
)
from serving.jobs.rows import JobRows
from serving.jobs.store import Order
from serving.jobs.tables import DELIVERIES, EVENTS, JOBS, open_engine, to_event, to_job
from serving.scheduling import Estimate, Limits

_FORGOTTEN_AT_ONCE = 500
_DELIVERY_SECONDS = 60.0  # who takes a webhook to send it and is not heard of again has lost it


class SqlJobStore(JobRows):
    """`JobStore` on a database. With SQLite its methods are called from one thread at a time."""

    def __init__(
        self,
        database: str | Path,
        *,
        max_losses: int = 5,
        slice_seconds: float = 30.0,
        retention_seconds: float = 7 * 86_400.0,
        history_seconds: float = 90 * 86_400.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = open_engine(database)
        self._max_losses, self._slice_seconds = max_losses, slice_seconds
        self._retention_seconds, self._history_seconds = retention_seconds, history_seconds
        self._clock = clock

    @property
    def many_writers(self) -> bool:
        """Whether other processes may call the same database at the same time."""
        return self._is_postgres

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
        terms, now = terms or JobTerms(), self._clock()
        with self._transaction(alone=True) as db:
            earlier = self._earlier(db, job_id, terms, retried=retried)
            if earlier is not None:
                return Accepted(job=earlier, replayed=True)
            request = terms.request_sha256 or ""
            quoted = quote_id and ledger.take_quote(db, quote_id, owner=terms.owner, request=request, now=now)
            new, _, _ = admission.expect(db, settings, terms, now=now)
            if limits is not None and not quoted:
                admission.admit(db, settings, terms, limits, now=now)
            ledger.join(db, terms.owner)
            db.execute(
                JOBS.insert().values(
                    id=job_id,
                    settings=settings.model_dump_json(),
                    terms=terms.model_dump_json(),
                    created_at=now,
                    waiting_since=now,
                    owner=terms.owner,
                    idempotency_key=terms.idempotency_key,
                    request_sha256=terms.request_sha256,
                    deadline=terms.deadline,
                    steps=settings.steps_to_run,
                    shape=admission.shape_of(settings),
                    step_seconds=new.rest_seconds / settings.steps_to_run,
                    decode_seconds=new.after_seconds,
                )
            )
            self._record(db, job_id, "queued")
            ledger.count(db, "accepted", terms.owner)
            return Accepted(job=self._job(db, job_id), replayed=False)

    def quote(
        self, quote_id: str, settings: JobSettings, terms: JobTerms, *, limits: Limits, seconds: float
    ) -> tuple[float, Estimate]:
        now = self._clock()
        with self._transaction() as db:
            new, expected = admission.admit(db, settings, terms, limits, now=now)
            request = terms.request_sha256 or ""
            ledger.keep_quote(db, quote_id, owner=terms.owner, request=request, until=now + seconds, now=now)
            return new.rest_seconds, expected

    def get(self, job_id: str, *, owner: str | None = None) -> Job:
        with self._transaction() as db:
            return self._job(db, job_id, owner=owner)

    def estimate(self, job_id: str) -> Estimate | None:
        with self._transaction() as db:
            row = self._row(db, job_id)
            if row is None or row["status"] not in admission.UNFINISHED:
                return None
            return admission.estimate_of(db, row, now=self._clock())

    def page(self, *, after: str | None, limit: int, order: Order, owner: str | None = None) -> tuple[list[Job], bool]:
        chosen = select(JOBS).limit(limit + 1)
        chosen = chosen.order_by(JOBS.c.number.asc() if order == "asc" else JOBS.c.number.desc())
        with self._transaction() as db:
            if after is not None:
                start = self._job(db, after, owner=owner).number
                chosen = chosen.where(JOBS.c.number > start if order == "asc" else JOBS.c.number < start)
            if owner is not None:
                chosen = chosen.where(JOBS.c.owner == owner)
            rows = db.execute(chosen).mappings().all()
        return [to_job(row) for row in rows[:limit]], len(rows) > limit

    def cancel(self, job_id: str, *, owner: str | None = None) -> Job:
        with self._transaction() as db:
            job = self._job(db, job_id, owner=owner, locked=True)
            if not job.is_final:
                self._update(db, job_id, cancel_requested=1, cancelled_at=self._clock())
                self._close(db, job, JobError(code="cancelled", message="The job was cancelled."))
            return self._job(db, job_id)

    def delete(self, job_id: str, *, owner: str | None = None) -> Job:
        with self._transaction() as db:
            job = self._job(db, job_id, owner=owner, locked=True)
            db.execute(EVENTS.delete().where(EVENTS.c.job_id == job_id))
            db.execute(JOBS.delete().where(JOBS.c.id == job_id))
            return job

    def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        now = self._clock()
        with self._transaction() as db:
            ledger.seen(db, worker, stage, now=now)
            self._tidy(db, now)
            row = self._next(db, stage, now)
            if row is None:
                return None
            attempt = row["attempt"] + (stage == "denoise")
            self._update(
                db,
                row["id"],
                status="in_progress",
                epoch=row["epoch"] + 1,
                attempt=attempt,
                worker=worker,
                lease_until=now + lease_seconds,
                held_since=now,
                started_at=row["started_at"] or now,
            )
            self._record(db, row["id"], "started" if stage == "denoise" else "decoding", worker=worker, attempt=attempt)
            return self._job(db, row["id"])

    def renew(
        self,
        lease: Lease,
        *,
        lease_seconds: float,
        step: int | None = None,
        step_seconds: float | None = None,
        checkpoint: str | None = None,
    ) -> Orders:
        now = self._clock()
        with self._transaction() as db:
            row = self._row_or_lost(db, lease)
            if row["cancel_requested"]:
                return Orders(cancel=True)
            self._check(row, lease)
            changes: dict[str, Any] = {"lease_until": now + lease_seconds}
            if step is not None and step != row["step"]:
                changes["step"] = step
                if step_seconds is not None:
                    changes["step_seconds"] = step_seconds
                    if not row["step_seconds"]:
                        self._first_measure(db, row, step_seconds)
                    self._charge(db, row, steps=step - row["step"], step_seconds=step_seconds, now=now)
                self._record(db, lease.job_id, "progress", step=step, total=row["steps"])
            if checkpoint is not None:
                changes["checkpoint"] = checkpoint
                self._record(db, lease.job_id, "checkpoint", step=step if step is not None else row["step"])
            self._update(db, lease.job_id, **changes)
            return Orders(make_room=step is not None and self._makes_room(db, lease.job_id, now))

    def note(self, lease: Lease, *, name: str, **facts: object) -> None:
        with self._transaction() as db:
            self._check(self._row_or_lost(db, lease), lease)
            self._record(db, lease.job_id, name, **facts)

    def resumed(self, lease: Lease, *, step: int) -> None:
        with self._transaction() as db:
            self._check(self._row_or_lost(db, lease), lease)
            self._update(db, lease.job_id, resumed_from_step=step, step=step)
            self._record(db, lease.job_id, "resumed", step=step)

    def release(self, lease: Lease, *, preempted: bool = False) -> None:
        with self._transaction() as db:
            row = self._row(db, lease.job_id, locked=True)
            if row is not None and row["epoch"] == lease.epoch and row["lease_until"] is not None:
                self._update(db, lease.job_id, **self._free())
                self._record(db, lease.job_id, "preempted" if preempted else "released")

    def hand_over(self, lease: Lease, *, latent_sha256: str, seconds: float, fingerprint: str | None = None) -> None:
        with self._transaction() as db:
            row = self._row_or_lost(db, lease)
            if (row["stage"], row["latent_sha256"], row["epoch"]) == ("decode", latent_sha256, lease.epoch):
                return
            self._check(row, lease)
            terms = JobTerms.model_validate_json(row["terms"])
            ledger.measured(db, "denoise", row["shape"], units=terms.step_tflop, seconds=row["step_seconds"])
            spent = _with_seconds(row, "denoise", seconds)
            told = {"latent_sha256": latent_sha256, "fingerprint": fingerprint, "stage_seconds": spent}
            self._update(db, lease.job_id, stage="decode", **told, **self._free())
            self._record(db, lease.job_id, "denoised", latent_sha256=latent_sha256)
            ledger.observe(db, "wait_seconds", row["started_at"] - row["created_at"])
            ledger.observe(db, "denoise_seconds", json.loads(spent)["denoise"])

    def complete(self, lease: Lease, *, video_sha256: str, seconds: float) -> None:
        now = self._clock()
        with self._transaction() as db:
            row = self._row_or_lost(db, lease)
            if row["status"] == "completed" and row["epoch"] == lease.epoch:
                return
            self._check(row, lease)
            job = to_job(row)
            ledger.measured(db, "decode", row["shape"], units=admission.pixels_of(job.settings), seconds=seconds)
            self._update(
                db,
                job.id,
                status="completed",
                completed_at=now,
                expires_at=now + self._retention_seconds,
                video_sha256=video_sha256,
                stage_seconds=_with_seconds(row, "decode", seconds),
                **self._free(),
            )
            self._record(db, job.id, "completed", sha256=video_sha256)
            ledger.count(db, "completed", job.terms.owner)
            ledger.observe(db, "total_seconds", now - job.created_at)
            ledger.observe(db, "decode_seconds", seconds)
            self._tell(db, job, "video.completed")

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        with self._transaction() as db:
            row = self._row_or_lost(db, lease)
            self._check(row, lease)
            self._close(db, to_job(row), JobError(code=code, message=message))

    def events(self, job_id: str, *, after: int = 0, owner: str | None = None) -> list[Event]:
        with self._transaction() as db:
            self._job(db, job_id, owner=owner)
            chosen = select(EVENTS).where(EVENTS.c.job_id == job_id, EVENTS.c.number > after)
            return [to_event(row) for row in db.execute(chosen.order_by(EVENTS.c.number)).mappings()]

    def timed(self, stage: Stage, settings: JobSettings, *, units: float, seconds: float) -> None:
        with self._transaction() as db:
            ledger.measured(db, stage, admission.shape_of(settings), units=units, seconds=seconds)

    def facts(self) -> QueueFacts:
        now = self._clock()
        with self._transaction() as db:
            counted = select(JOBS.c.status, func.count()).where(JOBS.c.status.in_(admission.UNFINISHED))
            counts: dict[str, int] = {row[0]: row[1] for row in db.execute(counted.group_by(JOBS.c.status))}
            rest = admission.contenders(db)
            backlog = tuple((one.rest_seconds, one.deadline and one.deadline - now) for one in rest)
            return QueueFacts(
                queued=counts.get("queued", 0),
                in_progress=counts.get("in_progress", 0),
                backlog=backlog,
                held=sum(one.running for one in rest),
                workers=ledger.alive(db, "denoise", now=now),
            )

    def count(self, name: str, label: str) -> None:
        with self._transaction() as db:
            ledger.count(db, name, label)

    def tallies(self) -> list[tuple[str, str, float]]:
        with self._transaction() as db:
            return ledger.tallies(db)

    def tidy(self) -> None:
        with self._transaction() as db:
            self._tidy(db, self._clock())

    def due_deliveries(self, *, limit: int = 20) -> list[Delivery]:
        now = self._clock()
        due = select(DELIVERIES).where(DELIVERIES.c.next_at <= now).order_by(DELIVERIES.c.next_at).limit(limit)
        with self._transaction() as db:
            rows = db.execute(due.with_for_update(skip_locked=True)).mappings().all()
            taken = DELIVERIES.c.id.in_([row["id"] for row in rows])
            db.execute(update(DELIVERIES).where(taken).values(next_at=now + _DELIVERY_SECONDS))
        return [Delivery.model_validate({name: row[name] for name in Delivery.model_fields}) for row in rows]

    def delivered(self, delivery_id: str, *, again_in_seconds: float | None) -> None:
        next_at = None if again_in_seconds is None else self._clock() + again_in_seconds
        with self._transaction() as db:
            tried = update(DELIVERIES).where(DELIVERIES.c.id == delivery_id)
            db.execute(tried.values(attempts=DELIVERIES.c.attempts + 1, next_at=next_at))

    def expired(self, *, limit: int = 100) -> list[str]:
        gone = and_(JOBS.c.expires_at < self._clock(), JOBS.c.files_gone == 0)
        with self._transaction() as db:
            return [row.id for row in db.execute(select(JOBS.c.id).where(gone).limit(limit))]

    def files_gone(self, job_id: str) -> None:
        with self._transaction() as db:
            self._update(db, job_id, files_gone=1)

    def forget(self) -> int:
        old = and_(JOBS.c.files_gone == 1, JOBS.c.completed_at < self._clock() - self._history_seconds)
        with self._transaction() as db:
            ids = [row.id for row in db.execute(select(JOBS.c.id).where(old).limit(_FORGOTTEN_AT_ONCE))]
            db.execute(EVENTS.delete().where(EVENTS.c.job_id.in_(ids)))
            db.execute(DELIVERIES.delete().where(DELIVERIES.c.job_id.in_(ids)))
            db.execute(JOBS.delete().where(JOBS.c.id.in_(ids)))
            return len(ids)

    def unknown(self, job_ids: Sequence[str]) -> list[str]:
        with self._transaction() as db:
            known = {row.id for row in db.execute(select(JOBS.c.id).where(JOBS.c.id.in_(job_ids)))}
        return [job_id for job_id in job_ids if job_id not in known]

    def next_expiry(self) -> float | None:
        with self._transaction() as db:
            expiry = db.execute(select(func.min(JOBS.c.lease_until))).scalar()
        return None if expiry is None else float(expiry)

    def holds_leases(self) -> bool:
        with self._transaction() as db:
            held = select(func.count()).where(JOBS.c.lease_until >= self._clock())
            return bool(db.execute(held).scalar())

    def close(self) -> None:
        self._engine.dispose()


def _with_seconds(row: RowMapping, stage: str, seconds: float) -> str:
    spent: dict[str, float] = json.loads(row["stage_seconds"])
    return json.dumps(spent | {stage: round(spent.get(stage, 0.0) + seconds, 3)})
