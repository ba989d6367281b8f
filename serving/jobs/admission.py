"""Whether one more job is accepted, and when it would be done: the store's rows, put before `serving.scheduling`."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select

from serving import scheduling
from serving.jobs import ledger
from serving.jobs.job import JobSettings, JobTerms, RefusedError, Seconds
from serving.jobs.tables import JOBS, SHARES
from serving.scheduling import Contender, Estimate, Limits

UNFINISHED = ("queued", "in_progress")
_NAMES = "id number owner terms stage deadline steps step step_seconds decode_seconds shape waiting_since lease_until"
_COLUMNS = [JOBS.c[name] for name in _NAMES.split()]


def shape_of(settings: JobSettings) -> str:
    """What decides how long a step takes: jobs of one shape take equally long."""
    halves = "" if settings.guidance_scale == 1 else "+guidance"
    return f"{settings.width}x{settings.height}x{settings.num_frames}{halves}"


def pixels_of(settings: JobSettings) -> float:
    """Megapixels of all frames: how much there is to decode."""
    return settings.width * settings.height * settings.num_frames / 1e6


def contenders(connection: Connection, *, running_too: bool = True) -> list[Contender]:
    """All jobs that are not denoised; without `running_too` only those that wait for a denoiser."""
    chosen = select(*_COLUMNS, SHARES.c.served).join(SHARES, SHARES.c.owner == JOBS.c.owner, isouter=True)
    chosen = chosen.where(JOBS.c.status.in_(UNFINISHED), JOBS.c.stage == "denoise")
    if not running_too:
        chosen = chosen.where(JOBS.c.lease_until.is_(None))
    speeds = ledger.Speeds(connection, "denoise")
    return [_contender(row, speeds) for row in connection.execute(chosen.order_by(JOBS.c.number)).mappings()]


def _contender(row: RowMapping, speeds: ledger.Speeds) -> Contender:
    terms = JobTerms.model_validate_json(row["terms"])
    # A job that came before anything was measured.
    step_seconds = row["step_seconds"] or speeds.seconds(row["shape"], units=terms.step_tflop)
    return Contender(
        job_id=row["id"],
        number=row["number"],
        owner=row["owner"],
        weight=terms.weight,
        priority=terms.priority,
        deadline=row["deadline"],
        waiting_since=row["waiting_since"],
        rest_seconds=max(0.0, (row["steps"] - row["step"]) * step_seconds),
        after_seconds=row["decode_seconds"],
        served=row["served"] or 0.0,
        running=row["lease_until"] is not None,
    )


def expect(
    connection: Connection, settings: JobSettings, terms: JobTerms, *, now: float
) -> tuple[Contender, Estimate, list[Contender]]:
    """A new job beside those in line, and when it would be done."""
    shape, speeds = shape_of(settings), ledger.Speeds(connection, "denoise")
    decode = ledger.Speeds(connection, "decode").seconds(shape, units=pixels_of(settings))
    new = scheduling.new_contender(
        terms,
        rest_seconds=settings.steps_to_run * speeds.seconds(shape, units=terms.step_tflop),
        after_seconds=decode,
        served=ledger.served(connection, terms.owner),
        now=now,
    )
    others = contenders(connection)
    workers = ledger.alive(connection, "denoise", now=now)
    return new, scheduling.estimate(new, others, workers=workers, spread=speeds.spread(shape), now=now), others


def admit(
    connection: Connection, settings: JobSettings, terms: JobTerms, limits: Limits, *, now: float
) -> tuple[Contender, Estimate]:
    """Raises RefusedError when the job is not accepted now."""
    new, expected, others = expect(connection, settings, terms, now=now)
    used = ledger.used_today(connection, terms.owner, now=now)
    reason = scheduling.refusal(new, expected, others, limits, used_today=used, now=now)
    if reason is not None:
        raise RefusedError(reason.code, reason.message, reason.retry_after_seconds)
    return new, expected


def estimate_of(connection: Connection, row: RowMapping, *, now: float) -> Estimate:
    """When an accepted job will be done: position 0 and the rest of its own work once it is being worked on."""
    if row["stage"] == "decode":
        left = float(row["decode_seconds"])
        return Estimate(position=0, wait_seconds=0.0, eta_seconds=Seconds(p50=left, p95=2 * left))
    everyone = contenders(connection)
    this = next(contender for contender in everyone if contender.job_id == row["id"])
    spread = ledger.Speeds(connection, "denoise").spread(row["shape"])
    others = [contender for contender in everyone if contender.job_id != row["id"]]
    workers = ledger.alive(connection, "denoise", now=now)
    return scheduling.estimate(this, others, workers=workers, spread=spread, now=now)
