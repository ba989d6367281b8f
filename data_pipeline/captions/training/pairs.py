"""A captioned dataset becomes pairs to learn from: what a model is asked about a clip, and what it should write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from data_pipeline.captions.frames import instants
from data_pipeline.captions.prompts import summary_request
from data_pipeline.captions.training.settings import DistilSettings
from data_pipeline.stored import align, read, read_manifest
from groundwork.errors import InputError
from groundwork.storage import Storage

_CLIP = ("clip_id", "video_id", "start_seconds", "stop_seconds", "width", "height")
_CAPTION = ("clip_id", "text", "short_text", "frame_captions", "frame_seconds")
_PIXELS_PER_TOKEN = 28 * 28
_LETTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Pair:
    """One clip: `prompt` and `system` are asked about the frames at `seconds` after `start_seconds` of the source at
    `uri` (no seconds: no frames); `answer` is the caption. `length`: about how many tokens that makes."""

    clip_id: str
    video_id: str
    uri: str
    start_seconds: float
    stop_seconds: float
    seconds: tuple[float, ...]
    prompt: str
    system: str
    answer: str
    length: int


@dataclass(frozen=True)
class Pairs:
    """Pairs to learn and pairs held out, no video in both. `digest`: sha256 over all of them, 16 hex digits."""

    learnt: Sequence[Pair]
    held_out: Sequence[Pair]
    captioner: str
    digest: str


def read_pairs(data: Storage, settings: DistilSettings) -> Pairs:
    """The pairs of a finished dataset, in the order of clip ids: kept clips with a caption that was not rejected.

    Raises InputError where there is no dataset, no such captioner, or nothing to learn.
    """
    manifest = read_manifest(data)
    name = _captioner(data, manifest, settings.captioner)
    pairs = sorted(_pairs(data, manifest, name, settings), key=lambda pair: pair.clip_id)
    if not pairs:
        what = "captions of frames" if settings.task == "summary" else "caption"
        raise InputError(f"{data.uri}: no kept clip has a {what} by {name}.", "Caption it first: 'curate run'.")
    away = held_out_videos([pair.video_id for pair in pairs], share=settings.held_out, seed=settings.seed)
    digest = hashlib.sha256(json.dumps([asdict(pair) for pair in pairs]).encode()).hexdigest()[:16]
    return Pairs(
        learnt=[pair for pair in pairs if pair.video_id not in away],
        held_out=[pair for pair in pairs if pair.video_id in away],
        captioner=name,
        digest=digest,
    )


def held_out_videos(video_ids: Sequence[str], *, share: float, seed: int) -> frozenset[str]:
    """About `share` of the videos, by a lot that depends on the seed and the video alone; at least one, never all."""
    videos = sorted(set(video_ids), key=lambda video: hashlib.sha256(f"{seed}:{video}".encode()).digest())
    count = min(max(1, round(share * len(videos))), len(videos) - 1) if share else 0
    return frozenset(videos[:count])


def _captioner(data: Storage, manifest: Mapping[str, Any], wanted: str) -> str:
    names: list[str] = sorted({path.split("/")[1] for path in manifest["files"] if path.startswith("captions/")})
    if wanted in names:
        return wanted
    models = [name for name in names if name != "measured"]
    if not wanted and len(models) == 1:
        return models[0]
    if not names:
        raise InputError(f"{data.uri} holds no captions.", "Caption it first: 'curate run'.")
    asked = f"no captions by {wanted!r}" if wanted else "no captions by one model"
    raise InputError(f"{data.uri} holds {asked}.", f"Name one with --captioner: {', '.join(names)}.")


def _pairs(data: Storage, manifest: Mapping[str, Any], name: str, settings: DistilSettings) -> Iterator[Pair]:
    said = read(data, manifest, f"captions/{name}", _CAPTION)
    said = said.filter(pc.not_equal(pc.utf8_trim_whitespace(said["text"]), ""))  # as that of a rejected caption is
    ids = said.column("clip_id").combine_chunks()
    kept = align(read(data, manifest, "decisions", ("clip_id", "kept")), ids).column("kept").to_pylist()
    clips = align(read(data, manifest, "clips", _CLIP), ids).to_pylist()
    videos = read(data, manifest, "videos", ("video_id", "uri", "status")).to_pylist()
    uris = {video["video_id"]: video["uri"] for video in videos if video["status"] == "ok"}
    for row, clip, stays in zip(said.to_pylist(), clips, kept, strict=True):
        made = _pair(row, clip, uris[clip["video_id"]], settings=settings) if stays else None
        if made is not None:
            yield made


def _pair(row: Mapping[str, Any], clip: Mapping[str, Any], uri: str, *, settings: DistilSettings) -> Pair | None:
    """The pair of a captions row; None where the task is to sum up and it has no captions of frames."""
    prompt, system = settings.words
    seconds: tuple[float, ...] = ()
    if settings.task == "caption":
        seconds = tuple(instants(settings.sees, clip["stop_seconds"] - clip["start_seconds"]))
    elif not row["frame_captions"]:
        return None
    else:  # as the captioner asks: see captions/routes.py
        captions = list(zip(row["frame_seconds"], row["frame_captions"], strict=True))
        prompt = f"{prompt}\n{summary_request(row['short_text'], captions)}".strip()
    aspect = max(clip["width"], clip["height"]) / min(clip["width"], clip["height"])
    seen = len(seconds) * max(1, round(settings.short_side**2 * aspect / _PIXELS_PER_TOKEN))
    tokens = seen + (len(prompt) + len(system) + len(row["text"])) // _LETTERS_PER_TOKEN
    return Pair(
        clip_id=clip["clip_id"],
        video_id=clip["video_id"],
        uri=uri,
        start_seconds=clip["start_seconds"],
        stop_seconds=clip["stop_seconds"],
        seconds=seconds,
        prompt=prompt,
        system=system,
        answer=" ".join(row["text"].split()),
        length=tokens,
    )
