"""A damaged row of the dataset becomes a file of the run that names it; training goes on without it."""

from __future__ import annotations

from groundwork.latents import IndexedClip
from groundwork.storage import Storage
from groundwork.telemetry import get_logger

QUARANTINE = "quarantine"


def note_damaged(run: Storage, clip: IndexedClip, reason: str) -> None:
    """Write RUN/quarantine/<bucket>/<clip id>.json, once. Which rows are damaged is a property of the data:
    every worker, and every run, leaves the same ones out."""
    path = f"{QUARANTINE}/{clip.bucket}/{clip.clip_id}.json"
    if not run.exists(path):
        get_logger("train").warning("left out: %s", reason)
        run.write_json(path, {"clip_id": clip.clip_id, "shard": clip.shard, "reason": reason})


def damaged_clips(run: Storage) -> list[str]:
    """Ids of the clips that were left out so far."""
    return sorted({path.rsplit("/", 1)[1].removesuffix(".json") for path in run.list(QUARANTINE)})
