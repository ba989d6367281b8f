"""What the store remembers besides jobs: what owners were served, how long things took, which workers live."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import Connection, Table, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from serving.jobs.job import Stage
from serving.jobs.tables import JOBS, QUOTES, SHARES, SPEEDS, TALLIES, USAGE, WORKERS

_SECONDS_ALIVE = 20.0  # a worker that waits asks every five seconds
_NEWEST_WEIGHT = 0.3  # of a measurement in the running mean
_HOUR = 3600
BUCKETS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400)
"""Seconds, as suits videos: from a draft to hours in a queue."""


def served(connection: Connection, owner: str) -> float:
    """Denoise-seconds over weight that count as had by `owner`, who is (or gets) in line now.

    Whoever was away does not come back with credit: the least among those in line is the floor.
    """
    active = select(JOBS.c.owner).where(JOBS.c.status.in_(("queued", "in_progress"))).distinct()
    floor = connection.execute(select(func.min(SHARES.c.served)).where(SHARES.c.owner.in_(active))).scalar()
    own = connection.execute(select(SHARES.c.served).where(SHARES.c.owner == owner)).scalar()
    is_active = connection.execute(select(JOBS.c.id).where(JOBS.c.owner == owner, JOBS.c.owner.in_(active)).limit(1))
    if own is not None and is_active.first() is not None:
        return float(own)
    return max(float(own or 0.0), float(floor or 0.0))


def join(connection: Connection, owner: str) -> None:
    """`owner` gets in line."""
    value = served(connection, owner)
    put(connection, SHARES, {"owner": owner}, {"served": value})


def charge(connection: Connection, owner: str, *, seconds: float, weight: float, now: float) -> None:
    """`owner` was served so many denoise-seconds."""
    connection.execute(update(SHARES).where(SHARES.c.owner == owner).values(served=SHARES.c.served + seconds / weight))
    hour = {"owner": owner, "hour": int(now // _HOUR)}
    added = connection.execute(update(USAGE).filter_by(**hour).values(seconds=USAGE.c.seconds + seconds))
    if not added.rowcount:
        put(connection, USAGE, hour, {"seconds": seconds})


def used_today(connection: Connection, owner: str, *, now: float) -> float:
    """Denoise-seconds of `owner` in the last 24 hours."""
    since = int(now // _HOUR) - 23
    total = connection.execute(select(func.sum(USAGE.c.seconds)).where(USAGE.c.owner == owner, USAGE.c.hour >= since))
    return float(total.scalar() or 0.0)


def measured(connection: Connection, stage: Stage, shape: str, *, units: float, seconds: float) -> None:
    """A step (or a decoding) of this shape took so long; `units` is its size, to guess other shapes by."""
    known = connection.execute(select(SPEEDS).filter_by(stage=stage, shape=shape)).mappings().first()
    mean, variance = seconds, 0.0
    if known is not None:
        off = seconds - known["seconds"]
        mean = known["seconds"] + _NEWEST_WEIGHT * off
        variance = (1 - _NEWEST_WEIGHT) * (known["variance"] + _NEWEST_WEIGHT * off**2)
    values = {"seconds": mean, "units": units, "variance": variance}
    put(connection, SPEEDS, {"stage": stage, "shape": shape}, values)


class Speeds:
    """How long steps (or decodings) take, by shape, as far as any was measured."""

    def __init__(self, connection: Connection, stage: Stage) -> None:
        rows = connection.execute(select(SPEEDS).where(SPEEDS.c.stage == stage)).mappings()
        self._rows = {row["shape"]: row for row in rows}

    def seconds(self, shape: str, *, units: float) -> float:
        """Of one step or decoding; a shape that was never measured is scaled from all others by its size.

        0 when nothing is known.
        """
        if shape in self._rows:
            return float(self._rows[shape]["seconds"])
        sizes = sum(row["units"] for row in self._rows.values())
        return sum(row["seconds"] for row in self._rows.values()) / sizes * units if sizes else 0.0

    def spread(self, shape: str) -> float:
        """Relative deviation of what was measured, at most 1; half where it is only guessed."""
        row = self._rows.get(shape)
        return 0.5 if row is None else min(1.0, math.sqrt(row["variance"]) / max(row["seconds"], 1e-9))


def seen(connection: Connection, worker: str, stage: Stage, *, now: float) -> None:
    """A worker asked for a job, or told of one."""
    put(connection, WORKERS, {"name": worker}, {"stage": stage, "seen_at": now})
    connection.execute(WORKERS.delete().where(WORKERS.c.seen_at < now - 10 * _SECONDS_ALIVE))


def alive(connection: Connection, stage: Stage, *, now: float) -> int:
    """Workers of a stage that were heard of lately."""
    counted = select(func.count()).where(WORKERS.c.stage == stage, WORKERS.c.seen_at > now - _SECONDS_ALIVE)
    return int(connection.execute(counted).scalar_one())


def keep_quote(connection: Connection, quote_id: str, *, owner: str, request: str, until: float, now: float) -> None:
    """A quote holds until it expires or is used."""
    connection.execute(QUOTES.delete().where(QUOTES.c.expires_at < now))
    connection.execute(QUOTES.insert().values(id=quote_id, owner=owner, request_sha256=request, expires_at=until))


def take_quote(connection: Connection, quote_id: str, *, owner: str, request: str, now: float) -> bool:
    """Use a quote up; whether it was good for this request."""
    good = QUOTES.delete().where(
        QUOTES.c.id == quote_id,
        QUOTES.c.owner == owner,
        QUOTES.c.request_sha256 == request,
        QUOTES.c.expires_at >= now,
    )
    return bool(connection.execute(good).rowcount)


def count(connection: Connection, name: str, label: str, *, by: float = 1.0) -> None:
    """Add to a tally: a number that only grows, for as long as the database lives."""
    key = {"name": name, "label": label}
    added = connection.execute(update(TALLIES).filter_by(**key).values(value=TALLIES.c.value + by))
    if not added.rowcount:
        put(connection, TALLIES, key, {"value": by})


def observe(connection: Connection, name: str, seconds: float) -> None:
    """Count a duration in the first bucket that holds it, and in the sum."""
    bucket = next((str(bound) for bound in BUCKETS if seconds <= bound), "+Inf")
    count(connection, name, bucket)
    count(connection, name, "sum", by=seconds)


def tallies(connection: Connection) -> list[tuple[str, str, float]]:
    """Every tally: name, label, value."""
    return [(row.name, row.label, row.value) for row in connection.execute(select(TALLIES))]


def put(connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or change the one with this key."""
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    statement = insert(table).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
