"""Transactions of the job store, and what several of its methods do to a job's row in them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, RowMapping, and_, or_, select, update
from sqlalchemy.exc import DBAPIError

from serving import scheduling
from serving.jobs import admission, ledger
from serving.jobs.job import (
    Job,
    JobError,
    JobNotFoundError,
    JobTerms,
    KeyReusedError,
    Lease,
    LeaseLostError,
    Stage,
    StoreDownError,
)
from serving.jobs.tables import DELIVERIES, EVENTS, JOBS, to_job

_KEY_SECONDS = 86_400.0  # an idempotency key is remembered for a day
_TWIN_SECONDS = 60.0  # a client that repeats a request by itself does so within seconds
_FAILED_FILES_SECONDS = 600.0  # saved states of a failed job are of no use; a worker that comes late may still write
_ADMISSION_LOCK = 7246802
_FREE = {"lease_until": None, "worker": None, "held_since": None}


class JobRows:
    """The base of `SqlJobStore`."""

    _engine: Engine
    _clock: Callable[[], float]
    _max_losses: int
    _slice_seconds: float

    @contextmanager
    def _transaction(self, *, alone: bool = False) -> Iterator[Connection]:
        """Committed at the end of the block. `alone`: no other such block runs at the same time, in any process.

        Raises StoreDownError when the database does not answer.
        """
        try:
            with self._engine.begin() as db:
                if alone and self._is_postgres:
                    db.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADMISSION_LOCK})")
                yield db
        except DBAPIError as error:
            raise StoreDownError(f"The job store does not answer: {str(error.orig).strip()}") from error

    @property
    def _is_postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def _row(self, db: Connection, job_id: str, *, locked: bool = False) -> RowMapping | None:
        chosen = select(JOBS).where(JOBS.c.id == job_id)
        return db.execute(chosen.with_for_update() if locked else chosen).mappings().first()

    def _job(self, db: Connection, job_id: str, *, owner: str | None = None, locked: bool = False) -> Job:
        """Raises JobNotFoundError, also for a job of another owner."""
        row = self._row(db, job_id, locked=locked)
        if row is None or owner not in (None, row["owner"]):
            raise JobNotFoundError(f"No video has the id {job_id!r}.")
        return to_job(row)

    def _row_or_lost(self, db: Connection, lease: Lease) -> RowMapping:
        row = self._row(db, lease.job_id, locked=True)
        if row is None:
            raise LeaseLostError(f"Job {lease.job_id} is gone.")
        return row

    def _check(self, row: RowMapping, lease: Lease) -> None:
        """Raises LeaseLostError. An expired lease that nobody has taken over yet is still good: no work is lost."""
        final = row["status"] not in admission.UNFINISHED
        if final or row["epoch"] != lease.epoch or row["lease_until"] is None:
            at = f"it is at {row['epoch']}, {row['status']}"
            raise LeaseLostError(f"Lease {lease.epoch} of job {lease.job_id} is over ({at}).")

    def _update(self, db: Connection, job_id: str, **changes: object) -> None:
        db.execute(update(JOBS).where(JOBS.c.id == job_id).values(**changes))

    def _free(self) -> dict[str, object]:
        """Columns of a job that waits from now on."""
        return {**_FREE, "waiting_since": self._clock()}

    def _record(self, db: Connection, job_id: str, name: str, **facts: object) -> None:
        """The next event of a job, whose row this transaction holds."""
        newest = select(EVENTS.c.number).where(EVENTS.c.job_id == job_id).order_by(EVENTS.c.number.desc()).limit(1)
        number = (db.execute(newest).scalar() or 0) + 1
        values = {"job_id": job_id, "number": number, "name": name, "at": self._clock(), "facts": json.dumps(facts)}
        db.execute(EVENTS.insert().values(**values))

    def _close(self, db: Connection, job: Job, error: JobError) -> None:
        """Fail a job for good; the next epoch makes sure that nobody writes to it any more."""
        now = self._clock()
        self._update(
            db,
            job.id,
            epoch=JOBS.c.epoch + 1,
            status="failed",
            completed_at=now,
            expires_at=now + _FAILED_FILES_SECONDS,
            error=error.model_dump_json(),
            **_FREE,
        )
        self._record(db, job.id, "failed", code=error.code)
        ledger.count(db, "failed", error.code)
        self._tell(db, job, "video.failed")

    def _tell(self, db: Connection, job: Job, event: str) -> None:
        """Put a webhook in the outbox: it is there if and only if the job's end is."""
        hook = job.terms.webhook
        if hook is not None and event in hook.events:
            now, name = self._clock(), f"evt_{secrets.token_hex(12)}"
            values = {"id": name, "job_id": job.id, "url": hook.url, "event": event, "created_at": now, "next_at": now}
            db.execute(DELIVERIES.insert().values(**values))

    def _earlier(self, db: Connection, job_id: str, terms: JobTerms, *, retried: bool) -> Job | None:
        """The job that an equal request made: by id, by idempotency key, or as a retry that the client made itself.

        Raises KeyReusedError when the key came with another request.
        """
        now, of_owner = self._clock(), select(JOBS).where(JOBS.c.owner == terms.owner)
        row = self._row(db, job_id)
        if row is None and terms.idempotency_key is not None:
            row = db.execute(of_owner.where(JOBS.c.idempotency_key == terms.idempotency_key)).mappings().first()
            if row is not None and row["created_at"] < now - _KEY_SECONDS:
                self._update(db, row["id"], idempotency_key=None)
                row = None
            elif row is not None and row["request_sha256"] != terms.request_sha256:
                raise KeyReusedError(f"Idempotency-Key {terms.idempotency_key!r} was used with another request.")
        elif row is None and retried and terms.request_sha256 is not None:
            twin = and_(JOBS.c.request_sha256 == terms.request_sha256, JOBS.c.created_at > now - _TWIN_SECONDS)
            row = db.execute(of_owner.where(twin).order_by(JOBS.c.number.desc())).mappings().first()
        return None if row is None else to_job(row)

    def _tidy(self, db: Connection, now: float) -> None:
        """Take back leases that expired, and close jobs whose deadline has passed."""
        late = and_(JOBS.c.status.in_(admission.UNFINISHED), JOBS.c.deadline < now)
        chosen = select(JOBS).where(or_(JOBS.c.lease_until < now, late)).with_for_update(skip_locked=True)
        for row in db.execute(chosen).mappings().all():
            job = to_job(row)
            if row["lease_until"] is not None and row["lease_until"] < now:
                losses = job.losses + 1
                self._update(db, job.id, losses=losses, **self._free())
                self._record(db, job.id, "worker_lost", worker=job.worker, losses=losses)
                if losses >= self._max_losses:
                    message = f"{losses} workers were lost while they worked on this job."
                    self._close(db, job, JobError(code="worker_lost", message=message))
                    continue
            if row["deadline"] is not None and row["deadline"] < now:
                message = "The deadline passed before the video was done."
                self._close(db, job, JobError(code="deadline_exceeded", message=message))

    def _next(self, db: Connection, stage: Stage, now: float) -> RowMapping | None:
        """The job of a stage that is due next, its row held by this transaction; None when there is none."""
        waits = and_(JOBS.c.status.in_(admission.UNFINISHED), JOBS.c.stage == stage, JOBS.c.lease_until.is_(None))
        if stage == "decode":
            oldest = select(JOBS).where(waits).order_by(JOBS.c.number).limit(1).with_for_update(skip_locked=True)
            return db.execute(oldest).mappings().first()
        line = admission.contenders(db, running_too=False)
        while (chosen := scheduling.pick(line, now=now)) is not None:
            locked = select(JOBS).where(waits, JOBS.c.id == chosen.job_id).with_for_update(skip_locked=True)
            row = db.execute(locked).mappings().first()
            if row is not None:
                return row
            line = [one for one in line if one.job_id != chosen.job_id]  # another writer was quicker
        return None

    def _charge(self, db: Connection, row: RowMapping, *, steps: int, step_seconds: float, now: float) -> None:
        """Steps that are done for the first time count for the owner; what a crash repeats does not."""
        if steps > 0:
            weight = JobTerms.model_validate_json(row["terms"]).weight
            ledger.charge(db, row["owner"], seconds=steps * step_seconds, weight=weight, now=now)

    def _first_measure(self, db: Connection, row: RowMapping, step_seconds: float) -> None:
        """Nothing was known when the job came: what waits behind it is judged by its first step."""
        units = JobTerms.model_validate_json(row["terms"]).step_tflop
        ledger.measured(db, "denoise", row["shape"], units=units, seconds=step_seconds)

    def _makes_room(self, db: Connection, job_id: str, now: float) -> bool:
        """Whether a job that is being denoised lets another pass at this step."""
        line = admission.contenders(db)
        waiting = [one for one in line if not one.running]
        if not waiting:
            return False
        row = self._row(db, job_id)
        running = next((one for one in line if one.job_id == job_id), None)
        if row is None or running is None:
            return False
        # The job at hand has not waited; it is dated at the present to be compared with those that have.
        running = running.model_copy(update={"waiting_since": now})
        held = now - (row["held_since"] or now)
        return scheduling.yields(running, waiting, held_seconds=held, slice_seconds=self._slice_seconds)
