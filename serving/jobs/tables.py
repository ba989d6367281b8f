"""The tables of the job store for SQLite and Postgres, how a database is opened, and rows to `Job`s and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    RowMapping,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from groundwork.errors import RunError
from serving.jobs.job import Event, Job, JobError, JobSettings, JobTerms

LAYOUT = 2

METADATA = MetaData()
_NUMBER = BigInteger().with_variant(Integer, "sqlite")

LAYOUTS = Table("layout", METADATA, Column("number", Integer, primary_key=True))

JOBS = Table(
    "jobs",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("settings", Text, nullable=False),
    Column("terms", Text, nullable=False),
    Column("status", String, nullable=False, default="queued"),
    Column("stage", String, nullable=False, default="denoise"),
    Column("created_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("completed_at", Float(53)),
    Column("cancelled_at", Float(53)),
    Column("expires_at", Float(53)),
    Column("step", Integer, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("losses", Integer, nullable=False, default=0),
    Column("resumed_from_step", Integer),
    Column("epoch", Integer, nullable=False, default=0),
    Column("worker", String),
    Column("lease_until", Float(53)),
    Column("cancel_requested", Integer, nullable=False, default=0),
    Column("checkpoint", String),
    Column("latent_sha256", String),
    Column("fingerprint", String),
    Column("video_sha256", String),
    Column("stage_seconds", Text, nullable=False, default="{}"),
    Column("error", Text),
    # What the scheduler reads, so that it need not open `settings` and `terms` of every job.
    Column("owner", String, nullable=False),
    Column("idempotency_key", String),
    Column("request_sha256", String),
    Column("deadline", Float(53)),
    Column("steps", Integer, nullable=False),
    Column("shape", String, nullable=False),
    Column("step_seconds", Float(53), nullable=False, default=0.0),
    Column("decode_seconds", Float(53), nullable=False, default=0.0),
    Column("waiting_since", Float(53), nullable=False),
    Column("held_since", Float(53)),
    Column("files_gone", Integer, nullable=False, default=0),
    UniqueConstraint("owner", "idempotency_key"),
    Index("jobs_waiting", "status", "stage", "number"),
    Index("jobs_of_owner", "owner", "number"),
    Index("jobs_same_request", "owner", "request_sha256"),
    Index("jobs_leased", "lease_until"),
    sqlite_autoincrement=True,
)

EVENTS = Table(
    "events",
    METADATA,
    Column("job_id", String, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", String, nullable=False),
    Column("at", Float(53), nullable=False),
    Column("facts", Text, nullable=False),
    sqlite_with_rowid=False,
)

SHARES = Table(
    "shares",
    METADATA,
    Column("owner", String, primary_key=True),
    Column("served", Float(53), nullable=False),
)

USAGE = Table(
    "usage",
    METADATA,
    Column("owner", String, primary_key=True),
    Column("hour", Integer, primary_key=True),
    Column("seconds", Float(53), nullable=False),
)

SPEEDS = Table(
    "speeds",
    METADATA,
    Column("stage", String, primary_key=True),
    Column("shape", String, primary_key=True),
    Column("seconds", Float(53), nullable=False),
    Column("units", Float(53), nullable=False),
    Column("variance", Float(53), nullable=False),
)

WORKERS = Table(
    "workers",
    METADATA,
    Column("name", String, primary_key=True),
    Column("stage", String, nullable=False),
    Column("seen_at", Float(53), nullable=False),
)

TALLIES = Table(
    "tallies",
    METADATA,
    Column("name", String, primary_key=True),
    Column("label", String, primary_key=True),
    Column("value", Float(53), nullable=False),
)

QUOTES = Table(
    "quotes",
    METADATA,
    Column("id", String, primary_key=True),
    Column("owner", String, nullable=False),
    Column("request_sha256", String, nullable=False),
    Column("expires_at", Float(53), nullable=False),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("id", String, primary_key=True),
    Column("job_id", String, nullable=False),
    Column("url", String, nullable=False),
    Column("event", String, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float(53)),
    Index("deliveries_due", "next_at"),
)


def database_url(database: str | Path) -> str:
    """SQLAlchemy's URL: a path is a SQLite file; postgres:// and postgresql:// go through psycopg.

    Raises RunError for another kind, and for a password in the URL: it would be written wherever the configuration is.
    """
    text = str(database)
    if "://" not in text:
        return f"sqlite:///{Path(text).expanduser().absolute()}"
    scheme, _, rest = text.partition("://")
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise RunError(f"database: {scheme}:// is not known.", "Give a path for SQLite, or postgresql://…")
    url = make_url(f"postgresql+psycopg://{rest}")
    if url.password:
        hint = "Leave it out: libpq takes it from PGPASSWORD, or from the file that PGPASSFILE names."
        raise RunError("database: the URL holds a password.", hint)
    return url.render_as_string(hide_password=False)


def open_engine(database: str | Path) -> Engine:
    """The database, its tables made where missing.

    SQLite: WAL, every commit on disk, one connection. Postgres: a few connections, checked before use.
    Raises RunError when it cannot be reached, is not ours or was written by another version.
    """
    url = database_url(database)
    try:
        engine = _sqlite(url) if url.startswith("sqlite") else create_engine(url, pool_pre_ping=True, pool_size=4)
        with engine.begin() as connection:
            _prepare(connection)
    except (SQLAlchemyError, ArgumentError, NoSuchModuleError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        hint = "A file that is not ours: move it away to start afresh. Postgres: is it running, may this user log in?"
        raise RunError(f"{database} cannot be used as the job store: {reason}", hint) from error
    return engine


def _sqlite(url: str) -> Engine:
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, poolclass=StaticPool, connect_args={"check_same_thread": False, "timeout": 30})

    @event.listens_for(engine, "connect")
    def settle(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions are opened below, not by the driver
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _prepare(connection: Connection) -> None:
    """Make the tables. Raises RunError when those of another layout are there."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7246801)")  # two services that start at once
    found = set(inspect(connection).get_table_names())
    if "jobs" in found:
        number = connection.execute(select(LAYOUTS.c.number)).scalar() if "layout" in found else None
        if number != LAYOUT:
            hint = "Use the version of this service that wrote it, or another state_dir."
            raise RunError(f"The job store holds layout {number or 1}, this version writes layout {LAYOUT}.", hint)
        return
    METADATA.create_all(connection)
    connection.execute(LAYOUTS.insert().values(number=LAYOUT))


def to_job(row: RowMapping) -> Job:
    """A row of the table `jobs`."""
    fields = {name: row[name] for name in Job.model_fields}
    fields["settings"] = JobSettings.model_validate_json(fields["settings"])
    fields["terms"] = JobTerms.model_validate_json(fields["terms"])
    fields["error"] = JobError.model_validate_json(fields["error"]) if fields["error"] else None
    fields["stage_seconds"] = json.loads(fields["stage_seconds"])
    fields["cancel_requested"] = bool(fields["cancel_requested"])
    return Job.model_validate(fields)


def to_event(row: RowMapping) -> Event:
    """A row of the table `events`."""
    return Event.model_validate({**row, "facts": json.loads(row["facts"])})
