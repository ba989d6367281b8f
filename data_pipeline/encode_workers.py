"""The Ray actors of encoding: texts to embeddings, spans of films to latents, each left on storage as it is ready."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data_pipeline.encode import ClipEncoder, EncodeJob, decode, load_encoder
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.ingest import Source
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.recipe import Bucket, EncodeSettings
from data_pipeline.shards import stage, staged_path
from data_pipeline.texts import load_embedder, stage_texts
from groundwork.errors import MediaError, StorageError
from groundwork.media import Frames
from groundwork.prefetch import prefetched
from groundwork.storage import Storage, open_storage

CLIPS_PER_ROW = 32
"""Clips that a worker gets at once: decoding overlaps encoding within them."""
_AHEAD = 2  # clips that are decoded while a batch is encoded, beyond the next batch

Decoded = tuple[EncodeJob, Frames | Outcome]


def film_rows(
    jobs: Sequence[EncodeJob], video_of: Mapping[str, Source], *, clips_per_row: int = CLIPS_PER_ROW
) -> list[dict[str, str]]:
    """Rows for `EncodeClips`: jobs grouped by video, and within it by bucket; several short videos share a row."""
    by_video: dict[str, list[EncodeJob]] = {}
    for job in jobs:
        by_video.setdefault(video_of[job.clip_id].uri, []).append(job)
    ordered = [job for members in by_video.values() for job in sorted(members, key=lambda job: job.bucket.folder)]
    rows = []
    for first in range(0, len(ordered), clips_per_row):
        films: dict[str, dict[str, Any]] = {}
        for job in ordered[first : first + clips_per_row]:
            source = video_of[job.clip_id]
            film = films.setdefault(source.uri, {"folder": source.folder, "name": source.name, "jobs": []})
            film["jobs"].append({**asdict(job), "bucket": job.bucket.model_dump()})
        rows.append(to_row(list(films.values())))
    return rows


def text_rows(texts: Sequence[str], *, texts_per_row: int) -> list[dict[str, str]]:
    """Rows for `EmbedTexts`."""
    return [to_row(texts[first : first + texts_per_row]) for first in range(0, len(texts), texts_per_row)]


class EmbedTexts:
    """Row of texts → their embeddings staged on storage, and an Outcome row per text (key: the text itself)."""

    def __init__(self, *, out: str, variant: str, settings: dict[str, Any], fingerprint: str, device: str) -> None:
        self._out, self._fingerprint = open_storage(out), fingerprint
        self._embedder = load_embedder(variant, EncodeSettings.model_validate(settings), device=device)

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        texts: list[str] = json.loads(row["payload"])
        try:
            stage_texts(self._out, self._embedder.embed(texts), fingerprint=self._fingerprint)
            outcomes = [Outcome(text, OK) for text in texts]
        except StorageError as error:
            outcomes = [Outcome(text, ABORTED, detail=str(error)) for text in texts]
        except Exception as error:  # the row boundary
            outcomes = [Outcome(text, FAILED, ERROR, f"{type(error).__name__}: {error}") for text in texts]
        return [to_row(asdict(outcome)) for outcome in outcomes]


class EncodeClips:
    """Row [{folder, name, jobs}, …] → each clip's latent staged on storage, and an Outcome row per clip.

    The next clips are decoded in a thread while a batch is encoded.
    """

    def __init__(self, *, out: str, variant: str, settings: dict[str, Any], fingerprint: str, device: str) -> None:
        self._out, self._fingerprint = open_storage(out), fingerprint
        chosen = EncodeSettings.model_validate(settings)
        self._encoder = load_encoder(variant, chosen, fingerprint=fingerprint, device=device)

    def __call__(self, row: dict[str, str]) -> list[dict[str, str]]:
        return [to_row(asdict(outcome)) for outcome in self._outcomes(json.loads(row["payload"]))]

    def _outcomes(self, films: list[dict[str, Any]]) -> Iterator[Outcome]:
        jobs = [job for film in films for job in _jobs(film)]
        most = max(self._encoder.batch_clips(job.bucket) for job in jobs)
        for answer in encoded(self._encoder, prefetched(self._decoded(films), depth=most + _AHEAD)):
            if isinstance(answer, Outcome):
                yield answer
                continue
            job, latent = answer
            try:
                stage(self._out, job, latent, fingerprint=self._fingerprint)
            except StorageError as error:
                yield Outcome(job.clip_id, ABORTED, detail=str(error))
            else:
                yield Outcome(job.clip_id, OK)

    def _decoded(self, films: list[dict[str, Any]]) -> Generator[Decoded]:
        for film in films:
            yield from decoded(self._out, film, fingerprint=self._fingerprint)


def decoded(out: Storage, film: Mapping[str, Any], *, fingerprint: str) -> Iterator[Decoded]:
    """The frames of a film's clips, or why there are none. What a worker staged before it was killed is done."""
    left = _jobs(film)
    try:
        with open_storage(film["folder"]).local_path(film["name"]) as path:
            while left:
                job = left[0]
                yield job, _frames(out, str(path), film["name"], job, fingerprint=fingerprint)
                left.pop(0)
    except StorageError as error:
        for job in left:
            yield job, Outcome(job.clip_id, FAILED, UNREADABLE, error.message)


def encoded(encoder: ClipEncoder, clips: Iterator[Decoded]) -> Iterator[Outcome | tuple[EncodeJob, Any]]:
    """Each clip as (job, row), or its outcome; clips of a bucket wait for each other until their batch is full."""
    waiting: dict[str, list[tuple[EncodeJob, Frames]]] = {}
    for job, frames in clips:
        if isinstance(frames, Outcome):
            yield frames
            continue
        batch = waiting.setdefault(job.bucket.folder, [])
        batch.append((job, frames))
        if len(batch) == encoder.batch_clips(job.bucket):
            yield from _encoded_batch(encoder, waiting.pop(job.bucket.folder))
    for batch in waiting.values():
        yield from _encoded_batch(encoder, batch)


def _encoded_batch(
    encoder: ClipEncoder, batch: Sequence[tuple[EncodeJob, Frames]]
) -> Iterator[Outcome | tuple[EncodeJob, Any]]:
    try:
        rows = encoder.encode_batch(batch)
    except Exception as error:  # the row boundary
        for job, _ in batch:
            yield Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        return
    yield from ((job, row) for (job, _), row in zip(batch, rows, strict=True))


def _frames(out: Storage, path: str, name: str, job: EncodeJob, *, fingerprint: str) -> Frames | Outcome:
    if out.exists(staged_path(job, fingerprint)):  # a retry after the worker was killed
        return Outcome(job.clip_id, OK)
    try:
        return decode(path, job)
    except MediaError as error:
        return Outcome(job.clip_id, FAILED, DAMAGED, error.message.replace(path, name))
    except StorageError:
        raise
    except Exception as error:  # the row boundary
        return Outcome(job.clip_id, FAILED, ERROR, f"{type(error).__name__}: {error}")


def _jobs(film: Mapping[str, Any]) -> list[EncodeJob]:
    return [
        EncodeJob(**{**job, "bucket": Bucket(**job["bucket"]), "captions": tuple(job["captions"])})
        for job in film["jobs"]
    ]
