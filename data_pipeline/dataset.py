"""All that was decided becomes a manifest: counts that add up, checksums of the files, one hash."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from data_pipeline.assessed import ClipTable, VideoFacts
from data_pipeline.captions.step import Captioned
from data_pipeline.closer import Looked
from data_pipeline.cut import MEDIA
from data_pipeline.failures import DAMAGED, FORGOTTEN
from data_pipeline.ingest import Source
from data_pipeline.labels.step import Labelled
from data_pipeline.outcome import Outcome
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import Verdicts, policy_hash
from data_pipeline.shards import Shard
from groundwork.config import recipe_hash
from groundwork.latents import LATENTS, TEXTS
from groundwork.records import Duplicate
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
    TEXTS,
)
_NOT_HASHED = "timings"  # CPU times differ from run to run; all else is equal byte for byte


@dataclass(frozen=True)
class Curated:
    """Everything decided about a set of sources. `facts` of the readable videos that have clips, in their order,
    `failed_videos` by video_id; the clips as columns with their verdicts, what closer looks gave them by signal, their
    labels, and the captions of kept ones; `duplicates`: groups of copies; by clip_id, `failed_clips`, and
    `failed_looks`: closer looks, or a labelling model's, that gave no score."""

    sources: Sequence[Source]
    facts: Mapping[str, VideoFacts]
    failed_videos: Mapping[str, Outcome]
    clips: ClipTable
    verdicts: Verdicts
    looked: Mapping[str, Looked] = field(default_factory=dict)
    labelled: Labelled | None = None
    captioned: Captioned = field(default_factory=lambda: Captioned({}))
    duplicates: Sequence[Duplicate] = ()
    failed_clips: Mapping[str, Outcome] = field(default_factory=dict)
    failed_looks: Mapping[str, Outcome] = field(default_factory=dict)

    @property
    def metadata(self) -> dict[str, str]:
        """By video_id, what a manifest says of the sources of which it says something; of equal ones, the first."""
        return {source.video_id: source.metadata for source in reversed(self.sources) if source.metadata}

    @property
    def scores(self) -> dict[str, Float[np.ndarray, " n"]]:
        """All scores of the clips by name, as far as they are known yet."""
        found = dict(self.clips.scores)
        for signal in self.looked.values():
            found |= signal.scores
        return found | dict(self.labelled.scores if self.labelled else {})

    @property
    def failed(self) -> Bool[np.ndarray, " n"]:
        """Which clips failed."""
        lost = pa.array(sorted(self.failed_clips), pa.string())
        failed: Bool[np.ndarray, " n"] = pc.is_in(self.clips.clip_ids, value_set=lost).to_numpy(zero_copy_only=False)
        return failed


def drop_stale(out: Storage, current: Sequence[str]) -> None:
    """Remove files of earlier runs from the tables' folders."""
    keep = set(current)
    for folder in TABLES:
        for path in out.list(folder):
            if path not in keep:
                out.delete(path)


def summarise(curated: Curated) -> dict[str, Any]:
    """Counts and hours; the sums agree: read = ok + failed + duplicate, found = kept + rejected + failed."""
    failed, kept, seconds = curated.failed, curated.verdicts.kept, curated.clips.seconds
    states = {"kept": kept & ~failed, "rejected": ~kept & ~failed, "failed": failed}
    reasons = pc.value_counts(curated.verdicts.reason_column().filter(pa.array(states["rejected"]))).to_pylist()
    hours = {state: round(float(seconds[which].sum()) / 3600, 9) for state, which in states.items()}
    read_hours = sum(facts.header.duration_seconds for facts in curated.facts.values()) / 3600
    return {
        "videos": video_counts(Counter(fate(curated, source)[0] for source in curated.sources)),
        "clips": {
            "found": len(seconds),
            "kept": int(states["kept"].sum()),
            "rejected": {row["values"]: row["counts"] for row in sorted(reasons, key=lambda row: row["values"])},
            "failed": int(failed.sum()),
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


def fate(curated: Curated, source: Source) -> tuple[str, str, str]:
    """Status, reason and detail of a source."""
    failure = curated.failed_videos.get(source.video_id)
    if source.duplicate_of:
        return "duplicate", "same_bytes", source.duplicate_of
    if failure is None:
        detail = curated.facts[source.video_id].damage
        return "ok", DAMAGED if detail else "", detail
    status = FORGOTTEN if failure.reason == FORGOTTEN else "failed"
    return status, failure.reason, failure.detail
