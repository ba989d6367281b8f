"""Clips' hashes become the table in which copies are searched."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from data_pipeline.duplicates.hashes import HASH_COLUMNS, ClipHashes


def hash_table(clips: Mapping[str, ClipHashes], videos: Mapping[str, str]) -> pa.Table:
    """clip_id, video_id and HASH_COLUMNS."""
    rows = [{"clip_id": name, "video_id": videos[name], **hashes.columns()} for name, hashes in clips.items()]
    schema = pa.schema([("clip_id", pa.string()), ("video_id", pa.string()), *HASH_COLUMNS.items()])
    return pa.Table.from_pylist(rows, schema=schema)
