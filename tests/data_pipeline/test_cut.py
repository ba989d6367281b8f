"""Cutting kept clips: only what is missing, exactly, with a note of how; stale files and notes are not believed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.assessed import ClipTable
from data_pipeline.cut import (
    CutClips,
    CutJob,
    begin_cutting,
    cut_clip,
    cut_jobs,
    drop_cut_notes,
    find_cut,
    write_media_table,
)
from data_pipeline.outcome import OK, Outcome, to_row
from data_pipeline.recipe import Bucket, MediaSettings
from groundwork import cutting, media
from groundwork.container import opened, pictures
from groundwork.records import MediaFile, from_table
from groundwork.storage import Storage, open_storage

TIME_BASE = 1 / 12_800  # of the film
BUCKET = Bucket(num_frames=9, height=32, width=48)
COPY, ENCODE = MediaSettings(mode="copy"), MediaSettings(mode="encode", crf=30)


@pytest.fixture(scope="module")
def stamps(footage: Path) -> list[int]:
    with opened(footage / "bikes.mp4") as (container, stream):
        return [picture.pts for picture, _ in pictures(container, stream, path="", on_damage=None)]


def jobs_of(stamps: list[int], settings: MediaSettings, *, first: int = 0) -> dict[str, CutJob]:
    """Two kept clips of 30 frames and a rejected one."""
    starts = [first + 30 * number for number in range(3)]
    rows = pa.table(
        {
            "clip_id": [f"{number:024x}" for number in range(3)],
            "start_pts": [stamps[start] for start in starts],
            "stop_pts": [stamps[start + 30] for start in starts],
            "start_seconds": [(stamps[start] - stamps[0]) * TIME_BASE for start in starts],
            "bucket": [BUCKET.folder] * 3,
        }
    )
    kept = ClipTable(rows, {}).where(np.array([True, True, False]))
    return cut_jobs(kept, settings, fps=8.0, buckets=[BUCKET])


def work(out: Storage, footage: Path, jobs: dict[str, CutJob], settings: MediaSettings) -> list[Outcome]:
    """What a worker answers to one row with these jobs."""
    plain = [{**asdict(job), "bucket": job.bucket.model_dump()} for job in jobs.values()]
    row = to_row({"folder": str(footage), "name": "bikes.mp4", "jobs": plain})
    answers = CutClips(out=out.uri, settings=settings.model_dump(mode="json"))(row)
    return [Outcome(**json.loads(answer["payload"])) for answer in answers]


def test_only_kept_clips_are_cut_and_none_unless_asked(stamps: list[int]) -> None:
    assert jobs_of(stamps, MediaSettings()) == {}
    copies, encoded = jobs_of(stamps, COPY), jobs_of(stamps, ENCODE)
    assert list(copies) == list(encoded) == [f"{number:024x}" for number in (0, 1)]
    assert copies[f"{0:024x}"].path == f"media/00/{0:024x}.mp4"
    keys = {job.key for jobs in (copies, encoded) for job in jobs.values()}
    assert len(keys) == 4
    assert jobs_of(stamps, MediaSettings(mode="copy", verify=False)) == copies


def test_files_of_bucket_size_are_made_once_and_described(footage: Path, stamps: list[int], tmp_path: Path) -> None:
    out, jobs = open_storage(tmp_path), jobs_of(stamps, ENCODE)
    assert begin_cutting(out, jobs) == {}
    assert [outcome.status for outcome in work(out, footage, jobs, ENCODE)] == [OK, OK]
    assert begin_cutting(out, jobs).keys() == jobs.keys()
    files = write_media_table(out, jobs)
    drop_cut_notes(out)
    rows = {row.clip_id: row for row in from_table(out.read_table("media/part-00000.parquet"), MediaFile)}
    assert begin_cutting(out, jobs) == rows
    for clip_id, row in rows.items():
        data = out.read_bytes(row.path)
        assert (row.mode, row.num_frames, row.bytes) == ("encode", 9, len(data))
        assert files[row.path] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        header = media.probe(out.path(jobs[clip_id].path))
        assert (header.height, header.width, header.fps) == (32, 48, 8.0)
    assert set(files) == {*(row.path for row in rows.values()), "media/part-00000.parquet"}


def test_what_was_made_otherwise_or_is_damaged_is_made_again(footage: Path, stamps: list[int], tmp_path: Path) -> None:
    out, jobs = open_storage(tmp_path), jobs_of(stamps, ENCODE)
    work(out, footage, jobs, ENCODE)
    write_media_table(out, jobs)
    drop_cut_notes(out)
    first, second = jobs.values()
    Path(out.path(first.path)).write_bytes(b"cut off")
    assert find_cut(out, jobs).keys() == {second.clip_id}
    begin_cutting(out, jobs)
    assert out.read_table("media/part-00000.parquet").column("clip_id").to_pylist() == [second.clip_id]
    assert find_cut(out, jobs_of(stamps, COPY)) == {}
    out.write_json(f"work/cut/{second.key}.json", {})
    begin_cutting(out, jobs_of(stamps, COPY))
    assert out.list("work/cut") == []  # a note of a file that is about to change
    assert write_media_table(out, {}) == {}


def test_a_clip_that_cannot_be_read_fails_alone(footage: Path, stamps: list[int], tmp_path: Path) -> None:
    out, jobs = open_storage(tmp_path / "out"), jobs_of(stamps, ENCODE)
    first, second = jobs.values()
    jobs[second.clip_id] = replace(second, start_seconds=99.0)
    good, bad = work(out, footage, jobs, ENCODE)
    assert (good.status, bad.status, bad.reason, bad.stage) == (OK, "failed", "damaged", "cut")
    assert "bikes.mp4" in bad.detail
    missing = [outcome.reason for outcome in work(out, tmp_path, jobs, ENCODE)]
    assert missing == ["unreadable", "unreadable"]
    assert first.clip_id in find_cut(out, jobs)


def test_a_copy_is_compared_with_its_source_before_it_is_believed(
    footage: Path, stamps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = next(iter(jobs_of(stamps, COPY, first=20).values()))
    path, target = footage / "bikes.mp4", tmp_path / "clip.mp4"
    said = cut_clip(path, target, job, COPY)
    assert (said.mode, said.num_frames, said.why) == ("smart", 30, "")
    assert 0 < said.copied_frames < 30

    def wrong(path: Path, target: Path, *, start_pts: int, stop_pts: int) -> cutting.Cut:
        """A file of the right frames, worse than they were, that claims to be a copy."""
        cutting.cut_encode(path, target, start_pts=start_pts, stop_pts=stop_pts, crf=40)
        return cutting.Cut(30, 30, 0)

    monkeypatch.setattr(cutting, "cut_copy", wrong)
    again = cut_clip(path, target, job, COPY)
    assert (again.mode, again.why) == ("reencode", "the copy is not exact: its pictures differ from the source's")
    span = {"start_pts": job.start_pts, "stop_pts": job.stop_pts}
    assert min(cutting.differences(path, target, **span)) > 30
    assert cut_clip(path, target, job, MediaSettings(mode="copy", verify=False)).mode == "copy"
