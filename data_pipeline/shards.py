"""Encoded clips become Parquet shards per bucket: staged one by one, then merged in a fixed order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from data_pipeline.encode import EncodeJob
from data_pipeline.fingerprint import short_hash
from groundwork.errors import StorageError
from groundwork.records import Latent, to_table
from groundwork.storage import Storage
from groundwork.telemetry import get_logger

LATENTS = "latents"
_STAGED = "work/encoded"
_METADATA_KEY = b"encode_fingerprint"


@dataclass(frozen=True)
class Shard:
    """One finished file of `clips` clips."""

    path: str
    bucket: str
    clips: int


def staged_path(job: EncodeJob, fingerprint: str) -> str:
    """Where a worker leaves the row of one clip."""
    return f"{_STAGED}/{fingerprint}/{job.key}.parquet"


def stage(out: Storage, job: EncodeJob, latent: Latent, *, fingerprint: str) -> None:
    """Leave one row; readers see it whole or not at all."""
    out.write_table(staged_path(job, fingerprint), to_table([latent], Latent))


def find_encoded(out: Storage, jobs: Iterable[EncodeJob], *, fingerprint: str) -> dict[str, str]:
    """clip_id → file that already holds its row: staged, or in a shard of an earlier run with this fingerprint."""
    wanted = {job.clip_id: job for job in jobs}
    found: dict[str, str] = {}
    for path in out.list(LATENTS, suffix=".parquet"):
        for clip_id, caption, bucket in _contents(out, path, fingerprint):
            job = wanted.get(clip_id)
            if job is not None and job.caption == caption and job.bucket.folder == bucket:
                found[clip_id] = path
    staged = set(out.list(f"{_STAGED}/{fingerprint}", suffix=".parquet"))
    return found | {
        job.clip_id: staged_path(job, fingerprint) for job in wanted.values() if staged_path(job, fingerprint) in staged
    }


def write_shards(
    out: Storage, jobs: Sequence[EncodeJob], encoded: Mapping[str, str], *, fingerprint: str, clips_per_shard: int
) -> list[Shard]:
    """Merge rows into shards: by bucket, by clip id, one row group per clip. A shard that stands already is kept.

    The name of a shard says which clips it holds and how they were made, so equal datasets have equal files.
    """
    by_bucket: dict[str, list[EncodeJob]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job.clip_id):
        by_bucket[job.bucket.folder].append(job)
    shards = []
    for bucket, members in sorted(by_bucket.items()):
        for number, first in enumerate(range(0, len(members), clips_per_shard)):
            chosen = members[first : first + clips_per_shard]
            content = short_hash(fingerprint, [job.key for job in chosen])[:12]
            path = f"{LATENTS}/{bucket}/part-{number:05d}-{content}.parquet"
            shards.append(Shard(path, bucket, len(chosen)))
            if any(encoded[job.clip_id] != path for job in chosen):
                _merge(out, path, chosen, encoded, fingerprint)
    return shards


def drop_staged(out: Storage) -> None:
    """Remove the rows that shards hold now."""
    out.delete_tree(_STAGED)


def _merge(out: Storage, path: str, jobs: Sequence[EncodeJob], encoded: Mapping[str, str], fingerprint: str) -> None:
    rows = [_row(out, encoded[job.clip_id], job.clip_id) for job in jobs]
    table = pa.concat_tables(rows).replace_schema_metadata({_METADATA_KEY: fingerprint})
    out.write_table(path, table, row_group_size=1)


def _row(out: Storage, path: str, clip_id: str) -> pa.Table:
    """The row of one clip; of a shard, no more than its row group is read."""
    with out.open_table(path) as file:
        index = file.read(columns=["clip_id"]).column("clip_id").to_pylist().index(clip_id)
        return file.read_row_group(index, columns=Latent.SCHEMA.names).replace_schema_metadata(None)


def _contents(out: Storage, path: str, fingerprint: str) -> list[tuple[str, str, str]]:
    """(clip_id, caption, bucket) of a shard's rows; none when it was made otherwise or is damaged."""
    try:
        with out.open_table(path) as file:
            if (file.schema_arrow.metadata or {}).get(_METADATA_KEY) != fingerprint.encode():
                return []
            table = file.read(columns=["clip_id", "caption"])
    except StorageError as error:
        get_logger("shards").warning("%s is damaged and will be made again: %s", path, error)
        return []
    bucket = path.split("/")[1]
    ids, captions = table.column("clip_id").to_pylist(), table.column("caption").to_pylist()
    return [(clip_id, caption, bucket) for clip_id, caption in zip(ids, captions, strict=True)]
