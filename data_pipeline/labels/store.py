"""What a model made of each clip, kept on storage under the model's key, so that nothing is computed twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from groundwork.storage import Storage

FOLDER = "work/labels"
_SCHEMA = pa.schema(
    [
        *(("clip_id", pa.string()), ("vector", pa.list_(pa.float32()))),
        *(("error", pa.string()), ("cpu_milliseconds", pa.float64())),
    ]
)


@dataclass(frozen=True)
class Made:
    """The vector of one clip, or why there is none; `cpu_milliseconds` is its share of its batch."""

    clip_id: str
    vector: Sequence[float] | None
    error: str = ""
    cpu_milliseconds: float = 0.0


@dataclass(frozen=True)
class Vectors:
    """All that is known under one key, by clip_id."""

    rows: Mapping[str, Made] = field(default_factory=dict)

    def matrix(self, clip_ids: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """A row per clip, NaN where nothing is known; no columns where nothing is known of any."""
        found_of = {one: self.rows[one].vector for one in clip_ids if one in self.rows}
        known = {one: vector for one, vector in found_of.items() if vector}
        width = len(next(iter(known.values()))) if known else 0
        found = np.full((len(clip_ids), width), np.nan, np.float32)
        for number, clip_id in enumerate(clip_ids):
            if clip_id in known:
                found[number] = known[clip_id]
        return found


def write_vectors(out: Storage, key: str, made: Sequence[Made]) -> None:
    """Keep what was made of some clips as one file: all of it, or nothing."""
    if made:
        name = hashlib.sha256("|".join(one.clip_id for one in made).encode()).hexdigest()[:32]
        rows = [
            {"clip_id": one.clip_id, "vector": one.vector, "error": one.error, "cpu_milliseconds": one.cpu_milliseconds}
            for one in made
        ]
        out.write_table(f"{FOLDER}/{key}/{name}.parquet", pa.Table.from_pylist(rows, schema=_SCHEMA))


def read_vectors(out: Storage, key: str) -> Vectors:
    """All that is kept under a key."""
    rows = {}
    for path in out.list(f"{FOLDER}/{key}", suffix=".parquet"):
        for row in out.read_table(path).to_pylist():
            rows[row["clip_id"]] = Made(row["clip_id"], row["vector"], row["error"], row["cpu_milliseconds"])
    return Vectors(rows)
