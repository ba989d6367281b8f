"""The job store on one SQLite file: a transaction per call, one writer, every commit on disk."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.jobs.job import (
    Event,
    Job,
    JobError,
    JobNotFoundError,
    JobSettings,
    Lease,
    LeaseLostError,
    Orders,
    QueueFacts,
    Stage,
)
from serving.jobs.store import Order
from serving.jobs.tables import connect, to_event, to_job


class SqliteJobStore:
    """`JobStore` for one process; its methods are called from one thread at a time."""

    def __init__(self, path: Path, *, max_losses: int = 5, clock: Callable[[], float] = time.time) -> None:
        self._connection = connect(path)
        self._max_losses = max_losses
        self._clock = clock

    def create(self, job_id: str, settings: JobSettings) -> Job:
        with self._transaction():
            made = self._connection.execute(
                "INSERT INTO jobs (id, settings, created_at) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
                (job_id, settings.model_dump_json(), self._clock()),
            )
            if made.rowcount:
                self._record(job_id, "queued")
            return self._job(job_id)

    def get(self, job_id: str) -> Job:
        return self._job(job_id)

    def page(self, *, after: str | None, limit: int, order: Order) -> tuple[list[Job], bool]:
        direction, beyond = ("ASC", ">") if order == "asc" else ("DESC", "<")
        start = "" if after is None else f"WHERE number {beyond} {self._job(after).number}"
        rows = self._connection.execute(
            f"SELECT * FROM jobs {start} ORDER BY number {direction} LIMIT ?",  # noqa: S608 - no user text in it
            (limit + 1,),
        ).fetchall()
        return [to_job(row) for row in rows[:limit]], len(rows) > limit

    def queue_position(self, job_id: str) -> int:
        number = self._job(job_id).number
        counted = self._connection.execute(
            "SELECT count(*) FROM jobs WHERE number < ? AND status IN ('queued', 'in_progress')", (number,)
        )
        return int(counted.fetchone()[0])

    def cancel(self, job_id: str) -> Job:
        with self._transaction():
            job = self._job(job_id)
            if not job.is_final:
                error = JobError(code="cancelled", message="The job was cancelled.")
                self._update(job_id, cancel_requested=1, cancelled_at=self._clock())
                self._close(job_id, error)
            return self._job(job_id)

    def delete(self, job_id: str) -> Job:
        with self._transaction():
            job = self._job(job_id)
            self._connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            return job

    def claim(self, stage: Stage, *, worker: str, lease_seconds: float) -> Job | None:
        with self._transaction():
            self._take_back_expired()
            row = self._connection.execute(
                "SELECT * FROM jobs WHERE status IN ('queued', 'in_progress') AND stage = ? AND lease_until IS NULL "
                "ORDER BY number LIMIT 1",
                (stage,),
            ).fetchone()
            if row is None:
                return None
            job, now = to_job(row), self._clock()
            attempt = job.attempt + (stage == "denoise")
            self._update(
                job.id,
                status="in_progress",
                epoch=job.epoch + 1,
                attempt=attempt,
                worker=worker,
                lease_until=now + lease_seconds,
                started_at=job.started_at or now,
            )
            self._record(job.id, "started" if stage == "denoise" else "decoding", worker=worker, attempt=attempt)
            return self._job(job.id)

    def renew(
        self, lease: Lease, *, lease_seconds: float, step: int | None = None, checkpoint: str | None = None
    ) -> Orders:
        with self._transaction():
            job = self._job_or_lost(lease)
            if job.cancel_requested:
                return Orders(cancel=True)
            self._check(job, lease)
            changes: dict[str, Any] = {"lease_until": self._clock() + lease_seconds}
            if step is not None and step != job.step:
                changes["step"] = step
                self._record(job.id, "progress", step=step, total=job.settings.steps)
            if checkpoint is not None:
                changes["checkpoint"] = checkpoint
                self._record(job.id, "checkpoint", step=step if step is not None else job.step)
            self._update(job.id, **changes)
            return Orders()

    def resumed(self, lease: Lease, *, step: int) -> None:
        with self._transaction():
            self._check(self._job_or_lost(lease), lease)
            self._update(lease.job_id, resumed_from_step=step, step=step)
            self._record(lease.job_id, "resumed", step=step)

    def release(self, lease: Lease) -> None:
        with self._transaction():
            freed = self._connection.execute(
                "UPDATE jobs SET lease_until = NULL, worker = NULL WHERE id = ? AND epoch = ? AND lease_until NOTNULL",
                (lease.job_id, lease.epoch),
            )
            if freed.rowcount:
                self._record(lease.job_id, "released")

    def hand_over(self, lease: Lease, *, latent_sha256: str, seconds: float) -> None:
        with self._transaction():
            job = self._job_or_lost(lease)
            if job.stage == "decode" and job.latent_sha256 == latent_sha256 and job.epoch == lease.epoch:
                return
            self._check(job, lease)
            spent = _with_seconds(job, "denoise", seconds)
            self._update(
                job.id, stage="decode", latent_sha256=latent_sha256, stage_seconds=spent, lease_until=None, worker=None
            )
            self._record(job.id, "denoised", latent_sha256=latent_sha256)

    def complete(self, lease: Lease, *, video_sha256: str, seconds: float) -> None:
        with self._transaction():
            job = self._job_or_lost(lease)
            if job.status == "completed" and job.epoch == lease.epoch:
                return
            self._check(job, lease)
            spent = _with_seconds(job, "decode", seconds)
            self._update(
                job.id,
                status="completed",
                completed_at=self._clock(),
                video_sha256=video_sha256,
                stage_seconds=spent,
                lease_until=None,
                worker=None,
            )
            self._record(job.id, "completed", sha256=video_sha256)

    def fail(self, lease: Lease, *, code: str, message: str) -> None:
        with self._transaction():
            self._check(self._job_or_lost(lease), lease)
            self._close(lease.job_id, JobError(code=code, message=message))

    def events(self, job_id: str, *, after: int = 0) -> list[Event]:
        self._job(job_id)
        rows = self._connection.execute(
            "SELECT * FROM events WHERE job_id = ? AND number > ? ORDER BY number", (job_id, after)
        )
        return [to_event(row) for row in rows]

    def facts(self) -> QueueFacts:
        row = self._connection.execute(
            "SELECT count(*) FILTER (WHERE status = 'queued'), count(*) FILTER (WHERE status = 'in_progress'), "
            "coalesce(sum(json_extract(settings, '$.steps') - step) FILTER (WHERE stage = 'denoise'), 0) "
            "FROM jobs WHERE status IN ('queued', 'in_progress')"
        ).fetchone()
        return QueueFacts(queued=row[0], in_progress=row[1], outstanding_steps=row[2])

    def next_expiry(self) -> float | None:
        row = self._connection.execute("SELECT min(lease_until) FROM jobs").fetchone()
        return None if row[0] is None else float(row[0])

    def holds_leases(self) -> bool:
        row = self._connection.execute("SELECT count(*) FROM jobs WHERE lease_until >= ?", (self._clock(),)).fetchone()
        return bool(row[0])

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _row(self, job_id: str) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return row

    def _job(self, job_id: str) -> Job:
        row = self._row(job_id)
        if row is None:
            raise JobNotFoundError(f"No video has the id {job_id!r}.")
        return to_job(row)

    def _job_or_lost(self, lease: Lease) -> Job:
        row = self._row(lease.job_id)
        if row is None:
            raise LeaseLostError(f"Job {lease.job_id} is gone.")
        return to_job(row)

    def _check(self, job: Job, lease: Lease) -> None:
        # An expired lease that nobody has taken over yet is still good: the work is not lost.
        if job.is_final or job.epoch != lease.epoch or job.lease_until is None:
            raise LeaseLostError(f"Lease {lease.epoch} of job {job.id} is over (it is at {job.epoch}, {job.status}).")

    def _take_back_expired(self) -> None:
        rows = self._connection.execute("SELECT * FROM jobs WHERE lease_until < ?", (self._clock(),)).fetchall()
        for job in map(to_job, rows):
            losses = job.losses + 1
            self._update(job.id, losses=losses, lease_until=None, worker=None)
            self._record(job.id, "worker_lost", worker=job.worker, losses=losses)
            if losses >= self._max_losses:
                message = f"{losses} workers were lost while they worked on this job."
                self._close(job.id, JobError(code="worker_lost", message=message))

    def _close(self, job_id: str, error: JobError) -> None:
        """Fail a job for good; the next epoch makes sure that nobody writes to it any more."""
        self._connection.execute("UPDATE jobs SET epoch = epoch + 1 WHERE id = ?", (job_id,))
        closing = {"status": "failed", "completed_at": self._clock(), "error": error.model_dump_json()}
        self._update(job_id, **closing, lease_until=None, worker=None)
        self._record(job_id, "failed", code=error.code)

    def _update(self, job_id: str, **changes: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in changes)
        self._connection.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*changes.values(), job_id))  # noqa: S608

    def _record(self, job_id: str, name: str, **facts: object) -> None:
        self._connection.execute(
            "INSERT INTO events (job_id, number, name, at, facts) "
            "SELECT ?, coalesce(max(number), 0) + 1, ?, ?, ? FROM events WHERE job_id = ?",
            (job_id, name, self._clock(), json.dumps(facts), job_id),
        )


def _with_seconds(job: Job, stage: str, seconds: float) -> str:
    return json.dumps(job.stage_seconds | {stage: round(job.stage_seconds.get(stage, 0.0) + seconds, 3)})
