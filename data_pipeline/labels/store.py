"""What a model made of each clip, kept on storage under the model's key, so that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from data_pipeline.fingerprint import short_hash
from groundwork.storage import Storage

FOLDER = "work/labels"
_FACTS = [("clip_id", pa.string()), ("error", pa.string()), ("cpu_milliseconds", pa.float64())]
_SCHEMA = pa.schema([*_FACTS, ("vector", pa.list_(pa.float32()))])


@dataclass(frozen=True)
class Made:
    """The vector of one clip, or why there is none; `cpu_milliseconds` is its share of its batch."""

    clip_id: str
    vector: Sequence[float] | None
    error: str = ""
    cpu_milliseconds: float = 0.0


def write_vectors(out: Storage, key: str, made: Sequence[Made]) -> None:
    """Keep what was made of some clips as one file named for them: all of it, or nothing."""
    if made:
        table = pa.Table.from_pylist([asdict(one) for one in made], schema=_SCHEMA)
        out.write_table(f"{_folder(key)}/{short_hash([one.clip_id for one in made])}.parquet", table)


def read_facts(out: Storage, key: str) -> pa.Table:
    """clip_id, error and CPU time of all clips that are kept under a key, each once; without their vectors."""
    names = [name for name, _ in _FACTS]
    tables = [out.read_table(path, columns=names) for path in out.list(_folder(key), suffix=".parquet")]
    found = pa.concat_tables([pa.schema(_FACTS).empty_table(), *(table.select(names) for table in tables)])
    _, first = np.unique(found.column("clip_id").to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return found.take(pa.array(np.sort(first))).combine_chunks()


def read_vectors(out: Storage, key: str) -> Iterator[tuple[list[str], Float[np.ndarray, "n d"]]]:
    """Clips and their vectors, a file after the other; clips without a vector are left out."""
    for path in out.list(_folder(key), suffix=".parquet"):
        table = out.read_table(path, columns=("clip_id", "vector")).drop_null()
        if len(table):
            flat = table.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
            yield table.column("clip_id").to_pylist(), flat.reshape(len(table), -1)


def _folder(key: str) -> str:
    return f"{FOLDER}/{key}"
