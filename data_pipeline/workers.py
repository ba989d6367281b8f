"""What a worker process does with one row: analyse a video, encode some clips; faults become rows, not exceptions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.recipe import Bucket, ShotSettings
from groundwork.errors import MediaError, StorageError
from groundwork.storage import open_storage

OK, FAILED, ABORTED = "ok", "failed", "aborted"
DAMAGED, UNREADABLE, ERROR, CRASHED = "damaged", "unreadable", "error", "crashed"
"""Reasons of failure. A damaged file stays damaged; the others may pass, so a later run tries them again."""


@dataclass(frozen=True)
class Outcome:
    """What became of one unit of work. `aborted`: the output cannot be written, the whole run must stop."""

    key: str
    status: str
    reason: str = ""
    detail: str = ""


def to_row(value: Any) -> dict[str, str]:
    """Plain data as a row of one JSON column: Ray never has to guess a type."""
    return {"payload": json.dumps(value)}


def analysis_path(video_id: str, fingerprint: str) -> str:
    """Where the measurements of a video are kept."""
    return f"work/analysis/{fingerprint}/{video_id}.parquet"


def failure_path(video_id: str, fingerprint: str) -> str:
    """Where it is noted that a video is damaged."""
    return f"work/analysis/{fingerprint}/{video_id}.failed.json"


class AnalyseVideo:
    """Row {video_id, folder, name} → the video's measurements on storage, and an Outcome row."""

    def __init__(self, *, out: str, settings: dict[str, Any], fingerprint: str) -> None:
        self._out = open_storage(out)
        self._settings = ShotSettings.model_validate(settings)
        self._fingerprint = fingerprint

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        video = json.loads(row["payload"])
        try:
            return to_row(asdict(self._analyse(video["video_id"], video["folder"], video["name"])))
        except StorageError as error:
            return to_row(asdict(Outcome(video["video_id"], ABORTED, detail=str(error))))

    def _analyse(self, video_id: str, folder: str, name: str) -> Outcome:
        from data_pipeline.analysis import analyse

        try:
            with open_storage(folder).local_path(name) as path:
                try:
                    analysis = analyse(path, settings=self._settings)
                except MediaError as error:
                    return self._damaged(video_id, error.message.replace(str(path), name))
        except StorageError as error:
            return Outcome(video_id, FAILED, UNREADABLE, error.message)
        except Exception as error:  # the row boundary: one odd file must not end the run
            return Outcome(video_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        self._out.write_table(analysis_path(video_id, self._fingerprint), analysis.to_table())
        return Outcome(video_id, OK)

    def _damaged(self, video_id: str, detail: str) -> Outcome:
        outcome = Outcome(video_id, FAILED, DAMAGED, detail)
        self._out.write_json(failure_path(video_id, self._fingerprint), asdict(outcome))
        return outcome


class EncodeClips:
    """Row {folder, name, jobs} → each clip's latent staged on storage, and an Outcome row per clip."""

    def __init__(self, *, out: str, variant: str, weights: str, fingerprint: str, device: str) -> None:
        from data_pipeline.encode import load_encoder

        self._out = open_storage(out)
        self._encoder = load_encoder(variant, weights=weights, device=device)
        self._fingerprint = fingerprint

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        work = json.loads(row["payload"])
        return [to_row(asdict(outcome)) for outcome in self._encode(work)]

    def _encode(self, work: dict[str, Any]) -> Iterator[Outcome]:
        from data_pipeline.encode import EncodeJob

        jobs = [EncodeJob(**{**job, "bucket": Bucket(**job["bucket"])}) for job in work["jobs"]]
        try:
            with open_storage(work["folder"]).local_path(work["name"]) as path:
                for job in jobs:
                    yield self._encode_one(str(path), work["name"], job)
        except StorageError as error:
            for job in jobs:
                yield Outcome(job.clip_id, FAILED, UNREADABLE, error.message)

    def _encode_one(self, path: str, name: str, job: Any) -> Outcome:
        from data_pipeline.shards import stage, staged_path

        if self._out.exists(staged_path(job, self._fingerprint)):  # a retry after the worker was killed
            return Outcome(job.clip_id, OK)
        try:
            latent = self._encoder.encode(path, job)
        except MediaError as error:
            return Outcome(job.clip_id, FAILED, DAMAGED, error.message.replace(path, name))
        except Exception as error:  # the row boundary
            return Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        try:
            stage(self._out, job, latent, fingerprint=self._fingerprint)
        except StorageError as error:
            return Outcome(job.clip_id, ABORTED, detail=str(error))
        return Outcome(job.clip_id, OK)
