"""Exported clips become a file: a tar for WebDataset, or a plain Parquet table."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import save

from data_pipeline.export.clips import ExportedClip
from groundwork.latents import float32, to_torch

_GROUP_BYTES = 64 << 20

_FLOATS, _SHAPE = pa.list_(pa.float32()), pa.list_(pa.int32())
PLAIN = pa.schema(
    [
        ("clip_id", pa.string()),
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("licence", pa.string()),
        ("metadata", pa.string()),
        ("start_seconds", pa.float64()),
        ("stop_seconds", pa.float64()),
        ("num_frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("video_tokens", pa.int32()),
        ("variant", pa.string()),
        ("scale_factor", pa.float64()),
        ("caption", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("latent", _FLOATS),
        ("log_variance", _FLOATS),
        ("latent_shape", _SHAPE),
        ("text_embeddings", pa.list_(_FLOATS)),
        ("text_shape", _SHAPE),
        ("video", pa.large_binary()),
        ("shard", pa.string()),
    ]
)
"""One row per clip; values in row-major order, exact: bfloat16 widened to float32. `text_embeddings`: one per caption.

What was not asked for is null."""


def write_tar(path: Path, clips: Iterable[ExportedClip]) -> None:
    """Members `<clip id>.json|mp4|safetensors|txt`, sorted, without times or owners: equal clips give equal bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in clips:
            for ending, data in sorted(_members(clip).items()):
                member = tarfile.TarInfo(f"{clip.clip_id}.{ending}")
                member.size, member.mode, member.mtime = len(data), 0o644, 0
                tar.addfile(member, io.BytesIO(data))


def write_parquet(path: Path, clips: Iterable[ExportedClip], *, shard: str) -> None:
    """Rows of `PLAIN`. The lower half of a widened bfloat16 is zero, so that split bytes and zstd take less room."""
    values = ["latent.list.element", "log_variance.list.element", "text_embeddings.list.element.list.element"]
    layout: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["variant"], "use_byte_stream_split": values}
    with pq.ParquetWriter(path, PLAIN, write_statistics=False, **layout) as writer:
        for batch in batches(clips, shard=shard):
            writer.write_batch(batch)


def batches(clips: Iterable[ExportedClip], *, shard: str) -> Iterator[pa.RecordBatch]:
    """Rows of `PLAIN`, about 64 MiB together."""
    rows: list[dict[str, Any]] = []
    size = 0
    for clip in clips:
        rows.append(_row(clip, shard))
        size += sum(2 * value.nbytes for value in clip.values.values()) + len(clip.film or b"")
        if size >= _GROUP_BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema=PLAIN)
            rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=PLAIN)


def _members(clip: ExportedClip) -> dict[str, bytes]:
    facts = {**clip.facts, "captions": list(clip.captions)}
    members = {
        "json": json.dumps(facts, sort_keys=True, ensure_ascii=False).encode(),
        "txt": clip.captions[0].encode(),
    }
    if clip.values:
        members["safetensors"] = save({name: to_torch(value.copy()) for name, value in clip.values.items()})
    if clip.film is not None:
        members["mp4"] = clip.film
    return members


def _row(clip: ExportedClip, shard: str) -> dict[str, Any]:
    row = {
        **clip.facts,
        "metadata": json.dumps(clip.facts["metadata"], sort_keys=True),
        "caption": clip.captions[0],
        "captions": list(clip.captions),
        "video": clip.film,
        "shard": shard,
    }
    if not clip.values:
        return row
    texts = [value for name, value in clip.values.items() if name.startswith("text_embedding")]
    return {
        **row,
        "latent": _flat(clip.values["latent"]),
        "log_variance": _flat(clip.values["log_variance"]) if "log_variance" in clip.values else None,
        "latent_shape": list(clip.values["latent"].shape),
        "text_embeddings": [_flat(value) for value in texts],
        "text_shape": list(texts[0].shape),
    }


def _flat(values: np.ndarray) -> np.ndarray:
    return float32(values).ravel()
