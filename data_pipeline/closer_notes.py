"""What closer looks gave becomes small tables on storage, a few clips each, and those one table again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from data_pipeline.fingerprint import short_hash
from data_pipeline.signals import CLOSER_SCORES
from groundwork.storage import Storage

STAGE = "closer"


@dataclass(frozen=True)
class Note:
    """What a signal, under a key, gave one clip; `error`: why it gave nothing."""

    clip_id: str
    signal: str
    key: str
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    cpu_milliseconds: float = 0.0


def write_notes(out: Storage, signal: str, key: str, notes: Sequence[Note]) -> None:
    """Keep some clips' notes as one table, named for the clips."""
    rows = [
        {"clip_id": note.clip_id, **note.scores, "error": note.error, "cpu_milliseconds": note.cpu_milliseconds}
        for note in notes
    ]
    path = f"{_folder(signal, key)}/{short_hash([note.clip_id for note in notes])}.parquet"
    out.write_table(path, pa.Table.from_pylist(rows, schema=_note_schema(signal)))


def read_notes(out: Storage, signal: str, key: str) -> pa.Table:
    """All notes of a signal."""
    tables = [out.read_table(path) for path in out.list(_folder(signal, key), suffix=".parquet")]
    return pa.concat_tables([_note_schema(signal).empty_table(), *tables]).combine_chunks()


def _note_schema(signal: str) -> pa.Schema:
    numbers = [(name, pa.float64()) for name in (*CLOSER_SCORES[signal], "cpu_milliseconds")]
    return pa.schema([("clip_id", pa.string()), ("error", pa.string()), *numbers])


def _folder(signal: str, key: str) -> str:
    return f"work/{STAGE}/{signal}/{key}"
