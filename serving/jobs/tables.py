"""The SQLite tables of the job store, and rows to `Job`s and back."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from groundwork.errors import RunError
from serving.jobs.job import Event, Job, JobError, JobSettings

VERSION = 1

_TABLES = """
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    settings TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'queued',
    stage TEXT NOT NULL DEFAULT 'denoise',
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    cancelled_at REAL,
    step INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    resumed_from_step INTEGER,
    epoch INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    lease_until REAL,
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    checkpoint TEXT,
    latent_sha256 TEXT,
    video_sha256 TEXT,
    stage_seconds TEXT NOT NULL DEFAULT '{}',
    error TEXT
);
CREATE INDEX jobs_waiting ON jobs (status, stage, number);
CREATE TABLE events (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    at REAL NOT NULL,
    facts TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, made if missing: WAL, every commit on disk, transactions opened by hand.

    Raises RunError when the file is not ours or was written by a newer version.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, timeout=30, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE;{_TABLES}PRAGMA user_version={VERSION};COMMIT;")
        elif version != VERSION:
            hint = "Use the version of this service that wrote it, or another state_dir."
            raise RunError(f"{path} holds jobs in layout {version}, this version writes layout {VERSION}.", hint)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise RunError(f"{path} cannot be used as the job store: {error}", "Move it away to start afresh.") from error
    except RunError:
        connection.close()
        raise
    return connection


def to_job(row: sqlite3.Row) -> Job:
    """A row of the table `jobs`."""
    fields = dict(row)
    fields["settings"] = JobSettings.model_validate_json(fields["settings"])
    fields["error"] = JobError.model_validate_json(fields["error"]) if fields["error"] else None
    fields["stage_seconds"] = json.loads(fields["stage_seconds"])
    fields["cancel_requested"] = bool(fields["cancel_requested"])
    return Job.model_validate(fields)


def to_event(row: sqlite3.Row) -> Event:
    """A row of the table `events`."""
    return Event.model_validate({**dict(row), "facts": json.loads(row["facts"])})
