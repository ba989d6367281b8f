"""A finished dataset becomes aligned columns, one value per clip: what is decided again, shown and calibrated."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from data_pipeline.dataset import MANIFEST
from groundwork.errors import InputError
from groundwork.storage import Storage

NOT_SCORES = frozenset({"clip_id", "fingerprint", "status", "error"})
_CLIP_COLUMNS = ("clip_id", "video_id", "start_seconds", "stop_seconds")


@dataclass(frozen=True)
class StoredClips:
    """n clips: ids, spans, the decisions of the manifest's policy (reason empty: kept), scores (NaN: none)."""

    clip_ids: pa.Array
    video_ids: pa.Array
    seconds: Float[np.ndarray, " n"]
    kept: Bool[np.ndarray, " n"]
    reasons: pa.Array
    scores: Mapping[str, Float[np.ndarray, " n"]]


def read_manifest(out: Storage) -> dict[str, Any]:
    """manifest.json. Raises InputError where no finished dataset lies."""
    if not out.exists(MANIFEST):
        raise InputError(f"{out.uri} holds no finished dataset.", "Run 'curate run' to its end first.")
    manifest: dict[str, Any] = out.read_json(MANIFEST)
    return manifest


def read_clips(out: Storage, manifest: Mapping[str, Any], *, scores: Collection[str] | None = None) -> StoredClips:
    """The clips with the named scores (None: all). A score that is not stored is all NaN."""
    clips = read(out, manifest, "clips", _CLIP_COLUMNS)
    clip_ids = clips.column("clip_id").combine_chunks()
    decided = align(read(out, manifest, "decisions", ("clip_id", "kept", "reason")), clip_ids)
    return StoredClips(
        clip_ids=clip_ids,
        video_ids=clips.column("video_id").combine_chunks(),
        seconds=clips.column("stop_seconds").to_numpy() - clips.column("start_seconds").to_numpy(),
        kept=decided.column("kept").to_numpy(),
        reasons=decided.column("reason").combine_chunks(),
        scores=_scores(out, manifest, clip_ids, scores),
    )


def read(out: Storage, manifest: Mapping[str, Any], folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A table of the dataset, from the files that the manifest names below `folder`."""
    paths = sorted(path for path in manifest["files"] if path.startswith(f"{folder}/"))
    if not paths:
        raise InputError(f"{out.uri} holds no table {folder}.", "It was made by an older version: run it again.")
    tables = [out.read_table(path, columns=columns) for path in paths]
    return pa.concat_tables(tables, promote_options="default")


def align(table: pa.Table, clip_ids: pa.Array) -> pa.Table:
    """The rows of `table` in the order of `clip_ids`; all null where it has no row."""
    own = table.column("clip_id").combine_chunks()
    if own.equals(clip_ids):
        return table
    return table.take(pc.index_in(clip_ids, value_set=own))


def numbers(column: pa.ChunkedArray) -> Float[np.ndarray, " n"]:
    """A column as float64; NaN for null."""
    values: Float[np.ndarray, " n"] = column.cast(pa.float64()).to_numpy()
    return values


def _scores(
    out: Storage, manifest: Mapping[str, Any], clip_ids: pa.Array, wanted: Collection[str] | None
) -> dict[str, Float[np.ndarray, " n"]]:
    stages = sorted({path.split("/")[1] for path in manifest["files"] if path.startswith("signals/")})
    found: dict[str, Float[np.ndarray, " n"]] = {}
    for stage in stages:
        columns = None if wanted is None else ("clip_id", *wanted)
        table = read(out, manifest, f"signals/{stage}", columns)
        names = [name for name in table.column_names if name not in NOT_SCORES and _is_number(table, name)]
        if names:
            rows = align(table, clip_ids)
            found |= {name: numbers(rows.column(name)) for name in names}
    nothing = np.full(len(clip_ids), np.nan)
    return found | {name: nothing for name in wanted or () if name not in found}


def _is_number(table: pa.Table, name: str) -> bool:
    kind = table.schema.field(name).type
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
