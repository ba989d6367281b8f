"""Rows become the dataset's tables on storage, and the tables a manifest: counts that add up, checksums, one hash."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pyarrow as pa

from data_pipeline.analysis import Header
from data_pipeline.assess import CLIP, AssessedClip
from data_pipeline.cut import MEDIA
from data_pipeline.failures import DAMAGED, FORGOTTEN
from data_pipeline.ingest import Source
from data_pipeline.outcome import Outcome
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import policy_hash
from data_pipeline.shards import LATENTS, Shard
from data_pipeline.signals import CLOSER_SCORES, SIGNALS
from groundwork.config import recipe_hash
from groundwork.records import Caption, Clip, Decision, Duplicate, Rejected, Video, to_table
from groundwork.storage import Storage

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
TABLES = (
    "videos",
    "clips",
    "signals",
    "decisions",
    "captions",
    "duplicates",
    "rejected",
    "thumbnails",
    "timings",
    MEDIA,
    LATENTS,
)
_NOT_HASHED = "timings"  # CPU times differ from run to run; all else is equal byte for byte
_PART = "part-00000.parquet"


@dataclass(frozen=True)
class Curated:
    """Everything decided about a set of sources. `headers` of readable videos, `failed_videos` by video_id,
    `failed_clips` by clip_id; `damage`: by video_id, where readable videos are damaged; `duplicates`:
    groups of copies; `failed_looks` by clip_id: closer looks that gave no score."""

    sources: Sequence[Source]
    headers: Mapping[str, Header]
    failed_videos: Mapping[str, Outcome]
    clips: Sequence[AssessedClip]
    failed_clips: Mapping[str, Outcome]
    damage: Mapping[str, str] = field(default_factory=dict)
    duplicates: Sequence[Duplicate] = ()
    failed_looks: Mapping[str, Outcome] = field(default_factory=dict)

    def state(self, item: AssessedClip) -> str:
        """kept, rejected or failed."""
        if item.clip.clip_id in self.failed_clips:
            return "failed"
        return "kept" if item.decision.kept else "rejected"


def write_tables(
    out: Storage, curated: Curated, recipe: CurateRecipe, *, fingerprint: str, closer: Mapping[str, str]
) -> list[str]:
    """Write every table but the latents; returns their paths. `closer`: fingerprints of the signals of closer looks."""
    captions = [item.caption for item in curated.clips if item.caption is not None]
    policy = policy_hash(recipe.rules, max_clips=recipe.clips.max_clips)
    tables = {
        f"videos/{_PART}": to_table([_video(curated, source, recipe.licence) for source in curated.sources], Video),
        f"clips/{_PART}": to_table([item.clip for item in curated.clips], Clip),
        f"decisions/{policy}/{_PART}": to_table([item.decision for item in curated.clips], Decision),
        f"captions/{recipe.captions.captioner}/{_PART}": to_table(captions, Caption),
        f"duplicates/{_PART}": to_table(curated.duplicates, Duplicate),
        f"rejected/{_PART}": to_table(_rejected(curated), Rejected),
        f"thumbnails/{_PART}": _clip_table(curated, {"jpeg": [item.thumbnail for item in curated.clips]}),
        f"timings/{_PART}": _timings_table(curated),
        **{
            f"signals/{name}/{_PART}": _signal_table(curated, name, closer.get(name, fingerprint))
            for name in (CLIP, *SIGNALS, *CLOSER_SCORES)
        },
    }
    for path, table in tables.items():
        out.write_table(path, table)
    return sorted(tables)


def drop_stale(out: Storage, current: Sequence[str]) -> None:
    """Remove files of earlier runs from the tables' folders."""
    keep = set(current)
    for folder in TABLES:
        for path in out.list(folder):
            if path not in keep:
                out.delete(path)


def summarise(curated: Curated) -> dict[str, Any]:
    """Counts and hours; the sums agree: read = ok + failed + duplicate, found = kept + rejected + failed."""
    states = Counter(curated.state(item) for item in curated.clips)
    reasons = Counter(item.decision.reason for item in curated.clips if curated.state(item) == "rejected")
    hours = {state: _hours(curated, state) for state in ("kept", "rejected", "failed")}
    read_hours = sum(header.duration_seconds for header in curated.headers.values()) / 3600
    return {
        "videos": video_counts(Counter(_fate(curated, source)[0] for source in curated.sources)),
        "clips": {
            "found": len(curated.clips),
            "kept": states["kept"],
            "rejected": dict(sorted(reasons.items())),
            "failed": states["failed"],
        },
        "hours": {"read": round(read_hours, 9), "found": round(sum(hours.values()), 9), **hours},
    }


def build_manifest(
    out: Storage,
    curated: Curated,
    recipe: CurateRecipe,
    *,
    paths: Sequence[str],
    shards: Sequence[Shard],
    known: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """What manifest.json says of the content; the run adds its code and seconds. `known`: files with their bytes and
    sha256, which are not read again."""
    counted = {path: {"bytes": out.size(path), "sha256": out.checksum(path)} for path in sorted(paths)}
    files = dict(sorted({**counted, **known}.items()))
    return {
        "schema_version": SCHEMA_VERSION,
        "complete": True,
        "name": recipe.name,
        "variant": recipe.variant,
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "policy": {
            "name": recipe.policy or recipe.name,
            "hash": policy_hash(recipe.rules, max_clips=recipe.clips.max_clips),
            # A list: the order of the rules decides, and JSON with sorted keys hides it.
            "rules": [{"reason": reason, **rule.model_dump(mode="json")} for reason, rule in recipe.rules.items()],
        },
        **summarise(curated),
        "shards": [
            {"path": shard.path, "bucket": shard.bucket, "clips": shard.clips, **files[shard.path]} for shard in shards
        ],
        "files": files,
        "dataset_hash": content_hash(files),
    }


def content_hash(files: Mapping[str, Mapping[str, Any]]) -> str:
    """sha256 over the paths and checksums of all files but the timings."""
    hashed = {path: entry["sha256"] for path, entry in files.items() if not path.startswith(_NOT_HASHED)}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def video_counts(statuses: Mapping[str, int]) -> dict[str, int]:
    """Sources by status; `forgotten` only where there are such."""
    counts = {status: statuses.get(status, 0) for status in ("ok", "failed", "duplicate")}
    forgotten = {FORGOTTEN: statuses[FORGOTTEN]} if statuses.get(FORGOTTEN) else {}
    return {"read": sum(statuses.values()), **counts, **forgotten}


def files_stand(out: Storage, manifest: Mapping[str, Any]) -> bool:
    """Whether every file of the manifest lies there with its size."""
    present = {path for folder in TABLES for path in out.list(folder)}
    files: Mapping[str, Mapping[str, Any]] = manifest.get("files", {})
    return set(files) <= present and all(out.size(path) == entry["bytes"] for path, entry in files.items())


def code_version() -> str:
    """Version of the installed distribution; from a bare checkout it is not known."""
    try:
        return metadata.version("cogvideox-platform")
    except metadata.PackageNotFoundError:
        return "unknown"


def _hours(curated: Curated, state: str) -> float:
    clips = [item.clip for item in curated.clips if curated.state(item) == state]
    return round(sum(clip.stop_seconds - clip.start_seconds for clip in clips) / 3600, 9)


def _fate(curated: Curated, source: Source) -> tuple[str, str, str]:
    """Status, reason and detail of a source."""
    failure = curated.failed_videos.get(source.video_id)
    if source.duplicate_of:
        return "duplicate", "same_bytes", source.duplicate_of
    if failure is None:
        detail = curated.damage.get(source.video_id, "")
        return "ok", DAMAGED if detail else "", detail
    status = FORGOTTEN if failure.reason == FORGOTTEN else "failed"
    return status, failure.reason, failure.detail


def _video(curated: Curated, source: Source, licence: str) -> Video:
    header = curated.headers.get(source.video_id, Header("", "", 0.0, 0.0, 0, 0, 0, 1))
    status, reason, detail = _fate(curated, source)
    return Video(
        video_id=source.video_id,
        uri=source.uri,
        bytes=source.bytes,
        container=header.container,
        codec=header.codec,
        fps=header.fps,
        duration_seconds=header.duration_seconds,
        width=header.width,
        height=header.height,
        licence=source.licence or licence,
        status=status,
        reason=reason,
        detail=detail,
        metadata=source.metadata,
    )


def _rejected(curated: Curated) -> list[Rejected]:
    """Sources that gave no clips (failed, doubled) and clips that could not be encoded."""
    rows = []
    for source in curated.sources:
        status, reason, detail = _fate(curated, source)
        stage = "ingest" if source.duplicate_of or source.reason else "analyse"
        if status != "ok":
            rows.append(Rejected(source.video_id, "", source.uri, stage, reason, detail, failed=status == "failed"))
    uris = {source.video_id: source.uri for source in reversed(curated.sources)}
    for item in curated.clips:
        clip, outcome = item.clip, curated.failed_clips.get(item.clip.clip_id)
        if outcome is not None:
            uri, reason, detail = uris[clip.video_id], outcome.reason, outcome.detail
            stage = outcome.stage or "encode"
            rows.append(Rejected(clip.video_id, clip.clip_id, uri, stage, reason, detail, failed=True))
    return rows


def _clip_table(curated: Curated, columns: Mapping[str, Any]) -> pa.Table:
    return pa.table({"clip_id": pa.array([item.clip.clip_id for item in curated.clips], pa.string()), **columns})


def _timings_table(curated: Curated) -> pa.Table:
    """CPU time of each clip's decode pass, and of each signal; null where a signal did not look at the clip."""
    spent = [{"cpu": item.cpu_milliseconds, **item.signal_milliseconds} for item in curated.clips]
    names = ["cpu", *sorted({name for row in spent for name in row} - {"cpu"})]
    return _clip_table(
        curated, {f"{name}_milliseconds": pa.array([row.get(name) for row in spent], pa.float64()) for name in names}
    )


def _signal_table(curated: Curated, signal: str, fingerprint: str) -> pa.Table:
    """The scores of a signal, null where it gave none; `error` says why."""
    rows = [item.scores.get(signal, {}) for item in curated.clips]
    why = [item.absent.get(signal, "") for item in curated.clips]
    return _clip_table(
        curated,
        {
            **{
                name: pa.array([row.get(name) for row in rows], pa.float64())
                for name in sorted({name for row in rows for name in row} | set(CLOSER_SCORES.get(signal, ())))
            },
            "fingerprint": pa.array([fingerprint] * len(rows), pa.string()),
            "status": pa.array(["absent" if reason else "ok" for reason in why], pa.string()),
            "error": pa.array(why, pa.string()),
        },
    )
