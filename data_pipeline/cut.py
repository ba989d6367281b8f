"""Kept clips, and no others, become files: copied out of the source exactly, or encoded at bucket size."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from data_pipeline.assess import BUCKET
from data_pipeline.assessed import ClipTable
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.recipe import Bucket, MediaSettings
from groundwork import colour, container, cut_plan, cutting, h264, instants, media
from groundwork.cut_plan import CannotCopy
from groundwork.errors import MediaError, StorageError
from groundwork.records import MediaFile, from_table, to_table
from groundwork.storage import Storage, open_storage

MEDIA = "media"
STAGE = "cut"
MEDIA_TABLE = f"{MEDIA}/part-00000.parquet"
_STAGED = "work/cut"
_LOWEST_PSNR = 40.0


@dataclass(frozen=True)
class CutJob:
    """A clip to cut: its span in time stamps of its source; its bucket, rate and start for files at bucket size."""

    clip_id: str
    start_pts: int
    stop_pts: int
    start_seconds: float
    fps: float
    bucket: Bucket
    key: str

    @property
    def path(self) -> str:
        """Where the file belongs in the dataset."""
        return f"{MEDIA}/{self.clip_id[:2]}/{self.clip_id}.mp4"


def cut_jobs(kept: ClipTable, settings: MediaSettings, *, fps: float, buckets: Iterable[Bucket]) -> dict[str, CutJob]:
    """What is to be cut, by clip_id: the kept clips, or nothing where no files are asked for."""
    if settings.mode == "none":
        return {}
    fingerprint = cut_fingerprint(settings)
    by_name = {bucket.folder: bucket for bucket in buckets}
    jobs = {}
    for row in kept.rows.select(["clip_id", "start_pts", "stop_pts", "start_seconds", BUCKET]).to_pylist():
        bucket = by_name[row.pop(BUCKET)]
        shape = [bucket.folder, fps] if settings.mode == "encode" else []
        key = short_hash(fingerprint, row["clip_id"], shape)
        jobs[row["clip_id"]] = CutJob(**row, fps=fps, bucket=bucket, key=key)
    return jobs


def cut_fingerprint(settings: MediaSettings) -> str:
    """Key of what cutting makes: its code and settings."""
    import data_pipeline.cut as own

    code: tuple[ModuleType, ...] = (own, colour, container, cut_plan, cutting, h264, instants, media)
    return stage_fingerprint(code, settings.model_dump(mode="json", exclude={"verify"}))


def cut_clip(path: str | Path, target: Path, job: CutJob, settings: MediaSettings) -> MediaFile:
    """Write the clip's file to `target` and describe it. Raises MediaError when its frames cannot be read."""
    span = {"start_pts": job.start_pts, "stop_pts": job.stop_pts}
    why = ""
    if settings.mode == "encode":
        frames = media.sample_clip(
            path,
            start_seconds=job.start_seconds,
            num_frames=job.bucket.num_frames,
            fps=job.fps,
            height=job.bucket.height,
            width=job.bucket.width,
        )
        media.write_video(target, frames, fps=job.fps, crf=settings.crf)
        return _described(job, target, mode="encode", why="", cut=cutting.Cut(len(frames), 0, 0))
    try:
        cut = cutting.cut_copy(path, target, **span)
        if settings.verify:
            _verify(path, target, cut, span)
        mode = "copy" if cut.copied_frames == cut.num_frames else "smart"
    except CannotCopy as error:
        why, mode = error.message, "reencode"
        cut = cutting.cut_encode(path, target, crf=settings.crf, **span)
    return _described(job, target, mode=mode, why=why, cut=cut)


def find_cut(out: Storage, jobs: Mapping[str, CutJob]) -> dict[str, MediaFile]:
    """clip_id → the file that stands already, made from just what the job says."""
    rows = from_table(out.read_table(MEDIA_TABLE), MediaFile) if out.exists(MEDIA_TABLE) else []
    wanted = {job.key for job in jobs.values()}
    staged = [path for path in out.list(_STAGED, suffix=".json") if Path(path).stem in wanted]
    rows += [MediaFile(**out.read_json(path)) for path in staged]
    present = set(out.list(MEDIA, suffix=".mp4"))
    return {
        row.clip_id: row
        for row in rows
        if row.clip_id in jobs
        and row.key == jobs[row.clip_id].key
        and row.path in present
        and out.size(row.path) == row.bytes
    }


def begin_cutting(out: Storage, jobs: Mapping[str, CutJob]) -> dict[str, MediaFile]:
    """What stands already; the notes of all other files are dropped first, as those files are about to change."""
    found = find_cut(out, jobs)
    if len(found) < len(jobs):
        if out.exists(MEDIA_TABLE):
            out.write_table(MEDIA_TABLE, to_table(sorted(found.values(), key=lambda row: row.clip_id), MediaFile))
        wanted = {job.key for job in jobs.values()}
        for path in out.list(_STAGED, suffix=".json"):
            if Path(path).stem not in wanted:
                out.delete(path)
    return found


def write_media_table(out: Storage, jobs: Mapping[str, CutJob]) -> dict[str, dict[str, Any]]:
    """Write the table of all files that were cut; returns path → bytes and sha256 of the files and the table."""
    if not jobs:
        return {}
    rows = sorted(find_cut(out, jobs).values(), key=lambda row: row.clip_id)
    out.write_table(MEDIA_TABLE, to_table(rows, MediaFile))
    files = {row.path: {"bytes": row.bytes, "sha256": row.sha256} for row in rows}
    return {**files, MEDIA_TABLE: {"bytes": out.size(MEDIA_TABLE), "sha256": out.checksum(MEDIA_TABLE)}}


def drop_cut_notes(out: Storage) -> None:
    """Remove the notes that the table holds now."""
    out.delete_tree(_STAGED)


class CutClips:
    """Row {folder, name, jobs} → each clip's file on storage with a note of it, and an Outcome row per clip."""

    def __init__(self, *, out: str, settings: dict[str, Any]) -> None:
        self._out = open_storage(out)
        self._settings = MediaSettings.model_validate(settings)

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        work = json.loads(row["payload"])
        jobs = [CutJob(**{**job, "bucket": Bucket(**job["bucket"])}) for job in work["jobs"]]
        return [to_row(asdict(outcome)) for outcome in self._cut(work, jobs)]

    def _cut(self, work: Mapping[str, Any], jobs: list[CutJob]) -> Iterator[Outcome]:
        try:
            with (
                open_storage(work["folder"]).local_path(work["name"]) as path,
                tempfile.TemporaryDirectory(prefix="cvx-cut-") as folder,
            ):
                for job in jobs:
                    yield self._cut_one(path, Path(folder) / "clip.mp4", work["name"], job)
        except StorageError as error:
            for job in jobs:
                yield Outcome(job.clip_id, FAILED, UNREADABLE, error.message, stage=STAGE)

    def _cut_one(self, path: Path, target: Path, name: str, job: CutJob) -> Outcome:
        try:
            described = cut_clip(path, target, job, self._settings)
        except MediaError as error:
            detail = error.message.replace(str(path), name)
            reason = DAMAGED if path.exists() else UNREADABLE
            return Outcome(job.clip_id, FAILED, reason, detail, stage=STAGE)
        except Exception as error:  # the row boundary
            return Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}", stage=STAGE)
        try:
            self._out.upload(target, job.path)
            self._out.write_json(f"{_STAGED}/{job.key}.json", asdict(described))
        except StorageError as error:
            return Outcome(job.clip_id, ABORTED, detail=str(error), stage=STAGE)
        return Outcome(job.clip_id, OK, stage=STAGE)


def _verify(path: str | Path, target: Path, cut: cutting.Cut, span: Mapping[str, int]) -> None:
    """Raises CannotCopy unless copied frames are equal to the source's and the others nearly so."""
    try:
        found = list(cutting.differences(path, target, **span))
    except MediaError as error:
        raise CannotCopy(f"the copy is not exact: {error.message}") from error
    copied = found[cut.first_copied : cut.first_copied + cut.copied_frames]
    if min(copied) < float("inf") or min(found) < _LOWEST_PSNR:
        raise CannotCopy("the copy is not exact: its pictures differ from the source's")


def _described(job: CutJob, target: Path, *, mode: str, why: str, cut: cutting.Cut) -> MediaFile:
    data = target.read_bytes()
    return MediaFile(
        clip_id=job.clip_id,
        path=job.path,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        mode=mode,
        why=why,
        num_frames=cut.num_frames,
        copied_frames=cut.copied_frames,
        key=job.key,
    )
