"""A source becomes a tombstone: its rows, pictures, files and caches leave the dataset, and it never comes in again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_pipeline.dataset import MANIFEST, content_hash
from data_pipeline.duplicates.step import TABLE as DUPLICATES
from data_pipeline.failures import FORGOTTEN
from data_pipeline.ingest import SOURCES_FILE, Source
from data_pipeline.recount import forgotten_video, recount
from data_pipeline.shards import drop_unused_texts, without_clips
from data_pipeline.stored import read_manifest
from data_pipeline.texts import drop_staged_texts
from groundwork.errors import InputError
from groundwork.latents import LATENTS
from groundwork.records import Duplicate, Rejected, Video, from_table, to_table
from groundwork.run_lock import LOCK_FILE, only_run
from groundwork.storage import Storage, open_storage

TOMBSTONES = "tombstones"
_APART = (f"{TOMBSTONES}/", LOCK_FILE, MANIFEST, "videos/", "rejected/", "report/")
"""What is not cleaned file by file: the source's row says there that it is forgotten; the report is written again."""


@dataclass(frozen=True)
class Target:
    """What must go: a video, and the ids of all clips that were ever cut from it."""

    video_id: str
    uris: tuple[str, ...]
    clip_ids: frozenset[str]

    @property
    def tombstone(self) -> str:
        return f"{TOMBSTONES}/{self.video_id}.json"


def forget(dataset: str, *, video: str) -> dict[str, Any]:
    """Remove a source (its video_id or URI) from every table, shard, media file and cache; run again, it completes.

    The tombstone comes first, so that even a killed removal keeps the source out; the manifest comes last. Raises
    InputError for an unknown source, RunError while a run holds the dataset.
    """
    out = open_storage(dataset)
    with only_run(out):
        manifest = read_manifest(out)
        target = _find(out, video)
        finished = out.exists(target.tombstone) and out.read_json(target.tombstone)["complete"]
        changed = [] if finished else _remove(out, manifest, target)
    return {
        "dataset": out.uri,
        "video_id": target.video_id,
        "uris": list(target.uris),
        "clips": len(target.clip_ids),
        "already_done": bool(finished),
        "files_changed": changed,
        "tombstone": target.tombstone,
        "dataset_hash": out.read_json(MANIFEST)["dataset_hash"],
    }


def without_forgotten(sources: Sequence[Source], out: Storage) -> list[Source]:
    """The sources, those with a tombstone marked so that they are never read; what a killed removal left is removed."""
    buried = {}
    for path in out.list(TOMBSTONES, suffix=".json"):
        stone = out.read_json(path)
        buried[stone["video_id"]] = path
        if not stone["complete"]:
            target = Target(stone["video_id"], tuple(stone["uris"]), frozenset(stone["clip_ids"]))
            _clean(out, target)
            _bury(out, target, complete=True)
    return [
        replace(source, reason=FORGOTTEN, detail=buried[source.video_id]) if source.video_id in buried else source
        for source in sources
    ]


def _find(out: Storage, video: str) -> Target:
    videos = from_table(out.read_table("videos"), Video)
    ids = {row.video_id for row in videos if video in (row.video_id, row.uri)}
    if not ids:
        stones = [out.read_json(path) for path in out.list(TOMBSTONES, suffix=".json")]
        ids = {stone["video_id"] for stone in stones if video == stone["video_id"] or video in stone["uris"]}
    if not ids:
        raise InputError(f"{out.uri} knows no video {video!r}.", "Give its video_id or its URI, as in videos/.")
    video_id = ids.pop()
    uris = {row.uri for row in videos if row.video_id == video_id}
    clips = out.read_table("clips", columns=("clip_id", "video_id"))
    clip_ids = set(clips.filter(pc.equal(clips.column("video_id"), video_id)).column("clip_id").to_pylist())
    stone = f"{TOMBSTONES}/{video_id}.json"
    if out.exists(stone):  # of a removal that was killed: its clips are perhaps gone from the tables already
        earlier = out.read_json(stone)
        clip_ids |= set(earlier["clip_ids"])
        uris |= set(earlier["uris"])
    return Target(video_id, tuple(sorted(uris)), frozenset(clip_ids))


def _remove(out: Storage, manifest: dict[str, Any], target: Target) -> list[str]:
    # A removal that was killed has changed files of which nobody knows: then all are read again.
    known = manifest["files"] if manifest["complete"] else {}
    _bury(out, target, complete=False)
    out.write_json(MANIFEST, {**manifest, "complete": False})
    changed = _clean(out, target) | _note(out, manifest, target)
    files = {
        path: known[path]
        if path in known and path not in changed
        else {"bytes": out.size(path), "sha256": out.checksum(path)}
        for path in manifest["files"]
        if out.exists(path)
    }
    shards = [_shard(out, shard, files) for shard in manifest["shards"] if shard["path"] in files]
    manifest = {**manifest, "files": files, "shards": shards, "dataset_hash": content_hash(files), "run_key": None}
    manifest |= {**recount(out, manifest), "complete": True}
    from data_pipeline.report import write_report

    write_report(out.uri, manifest=manifest)
    out.write_json(MANIFEST, manifest)
    _bury(out, target, complete=True)
    return sorted(changed)


def _bury(out: Storage, target: Target, *, complete: bool) -> None:
    stone = {"video_id": target.video_id, "uris": list(target.uris), "clip_ids": sorted(target.clip_ids)}
    out.write_json(target.tombstone, {**stone, "complete": complete})


def _shard(out: Storage, shard: Mapping[str, Any], files: Mapping[str, Any]) -> dict[str, Any]:
    with pq.ParquetFile(out.path(shard["path"]), filesystem=out.filesystem) as file:
        return {**shard, "clips": file.metadata.num_rows, **files[shard["path"]]}


def _clean(out: Storage, target: Target) -> set[str]:
    """Take the target out of every file of the dataset; returns those that changed or went."""
    ids = re.compile("|".join(map(re.escape, sorted({target.video_id, *target.clip_ids}))))
    changed = set()
    for path in out.list():
        if path.startswith(_APART):
            continue
        if ids.search(path):
            out.delete(path)
            changed.add(path)
        elif _rewrite(out, path, target, ids):
            changed.add(path)
    drop_staged_texts(out)  # nobody knows whose they are; they are embedded again where they are still needed
    return changed | drop_unused_texts(out)


def _rewrite(out: Storage, path: str, target: Target, ids: re.Pattern[str]) -> bool:
    """Rewrite one file without the target; a file that holds nothing else is removed. False: nothing to do."""
    if path.startswith(f"{LATENTS}/"):
        return without_clips(out, path, target.clip_ids)
    if path.endswith(".parquet"):
        return _rewrite_table(out, path, target)
    if path == SOURCES_FILE:
        stamps = out.read_json(path)
        left = {stamp: video_id for stamp, video_id in stamps.items() if video_id != target.video_id}
        if left != stamps:
            out.write_json(path, left)
        return bool(left != stamps)
    if not path.endswith((".json", ".jsonl")):
        return False
    lines = out.read_bytes(path).decode().splitlines(keepends=True)
    if path.endswith(".json"):  # of caches: none of them holds more than one video
        lines = ["".join(lines)]
    left_lines = [line for line in lines if not ids.search(line)]
    if left_lines == lines:
        return False
    out.write_bytes(path, "".join(left_lines).encode()) if left_lines else out.delete(path)
    return True


def _rewrite_table(out: Storage, path: str, target: Target) -> bool:
    with pq.ParquetFile(out.path(path), filesystem=out.filesystem) as file:
        per_group = file.metadata.row_group(0).num_rows if file.num_row_groups > 1 else None
        keys = file.read(columns=[name for name in ("clip_id", "video_id") if name in file.schema_arrow.names])
    if not keys.num_columns:
        return False
    gone = _holds(keys, target)
    if not pc.any(gone).as_py():
        return False
    left = out.read_table(path).filter(pc.invert(gone))
    folder = path.partition("/")[0]
    if folder == DUPLICATES:
        left = _regroup(left)
    if len(left) or folder != "work":
        # As before: shards hold a row group per clip, thumbnails larger ones.
        out.write_table(path, left, row_group_size=per_group)
    else:
        out.delete(path)
    return True


def _holds(table: pa.Table, target: Target) -> pa.Array:
    """Which rows belong to the target."""
    wanted = {"clip_id": pa.array(sorted(target.clip_ids), pa.string()), "video_id": pa.array([target.video_id])}
    masks = [pc.is_in(table.column(name), value_set=wanted[name]) for name in table.column_names]
    return pc.or_(masks[0], masks[-1]).combine_chunks()


def _regroup(left: pa.Table) -> pa.Table:
    """Groups of copies without their lost members: a group of one is none, and the best of the others stands for it."""
    groups: dict[str, list[Duplicate]] = {}
    for row in from_table(left, Duplicate):
        groups.setdefault(row.group, []).append(row)
    rows = []
    for members in groups.values():
        present = {row.clip_id for row in members}
        best = min(members, key=lambda row: row.rank).clip_id
        name = min(present)
        for row in members if len(members) > 1 else ():
            stays = row.representative if row.representative in present else best
            rows.append(replace(row, group=name, representative=stays))
    return to_table(sorted(rows, key=lambda row: (row.group, row.rank)), Duplicate)


def _note(out: Storage, manifest: Mapping[str, Any], target: Target) -> set[str]:
    """The source stays as a row that says it is forgotten, without anything measured; returns the tables written."""
    videos, rejected = (_only(manifest, folder) for folder in ("videos", "rejected"))
    rows = [
        forgotten_video(row, target.tombstone) if row.video_id == target.video_id else row
        for row in from_table(out.read_table(videos), Video)
    ]
    out.write_table(videos, to_table(rows, Video))
    others = [row for row in from_table(out.read_table(rejected), Rejected) if row.video_id != target.video_id]
    told = [
        Rejected(row.video_id, "", row.uri, "ingest", row.reason, row.detail, failed=False)
        for row in rows
        if row.video_id == target.video_id
    ]
    out.write_table(rejected, to_table([*told, *others], Rejected))
    return {videos, rejected}


def _only(manifest: Mapping[str, Any], folder: str) -> str:
    paths: list[str] = sorted(manifest["files"])
    return next(path for path in paths if path.startswith(f"{folder}/"))
