"""A label file becomes what is known of each clip: for every label yes, no, or nobody has said."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from jaxtyping import Float

from data_pipeline.label.labels import GOOD, label_place, parse_rows
from data_pipeline.labels.names import LABELS, NO_LABEL, column
from groundwork.errors import InputError
from groundwork.storage import Storage


@dataclass(frozen=True)
class LabelledClips:
    """`targets` [n, 6]: 1 has the defect, 0 has not, NaN: nobody has said. `sha256` is that of the file."""

    clip_ids: tuple[str, ...]
    targets: Float[np.ndarray, "n k"]
    uri: str
    sha256: str


def read_targets(dataset: Storage, given: str, *, aliases: Mapping[str, str]) -> LabelledClips:
    """The labels of a session of `curate label`, or of a file: JSON lines {clip_id, labels: […]}, or CSV or Parquet
    with a column clip_id and a column for each label (its name, or label_<name>): 1, 0, or empty.

    JSON lines name all that is wrong with a clip, so what they do not name it has not; `aliases` say which label a
    policy's reason stands for ("none": no label). Raises InputError for a word that is neither, and names it.
    """
    folder, name = label_place(dataset, given)
    data = folder.read_bytes(name)
    where = f"{folder.uri}/{name}"
    if name.endswith((".csv", ".parquet")):
        clip_ids, targets = _columns(_table(data, name, where), where)
    else:
        rows = parse_rows(data, where=where)
        clip_ids = [row.clip_id for row in rows]
        targets = np.array([_meant(row.labels, aliases, where) for row in rows], float).reshape(len(rows), len(LABELS))
    if len(set(clip_ids)) < len(clip_ids):
        twice = next(clip_id for clip_id in clip_ids if clip_ids.count(clip_id) > 1)
        raise InputError(f"{where}: labels clip {twice} twice.")
    return LabelledClips(tuple(clip_ids), targets, where, hashlib.sha256(data).hexdigest())


def _meant(words: Sequence[str], aliases: Mapping[str, str], where: str) -> list[float]:
    found = [0.0] * len(LABELS)
    for word in words:
        label = aliases.get(word, word)
        if label in LABELS:
            found[LABELS.index(label)] = 1.0
        elif label not in (GOOD, NO_LABEL):
            raise InputError(
                f"{where}: {word!r} is none of the six labels ({', '.join(LABELS)}).",
                f"Say what it stands for: --alias {word}=LABEL, or --alias {word}={NO_LABEL}.",
            )
    return found


def _table(data: bytes, name: str, where: str) -> pa.Table:
    try:
        if name.endswith(".csv"):
            return pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(strings_can_be_null=True))
        return pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}: cannot be read: {error}") from error


def _columns(table: pa.Table, where: str) -> tuple[list[str], Float[np.ndarray, "n k"]]:
    names = {label: name for label in LABELS for name in (label, column(label)) if name in table.column_names}
    if "clip_id" not in table.column_names or not names:
        raise InputError(
            f"{where}: needs a column clip_id and one for at least one label.", f"Labels: {', '.join(LABELS)}."
        )
    known = {"clip_id", *names.values()}
    strangers = [name for name in table.column_names if name.startswith("label_") and name not in known]
    if strangers:
        raise InputError(f"{where}: column {strangers[0]} is none of the six labels.", f"They are {', '.join(LABELS)}.")
    targets = np.full((len(table), len(LABELS)), np.nan)
    for label, name in names.items():
        targets[:, LABELS.index(label)] = _numbers(table, name, where)
    return [str(value) for value in table.column("clip_id").to_pylist()], targets


def _numbers(table: pa.Table, name: str, where: str) -> Float[np.ndarray, " n"]:
    try:
        kind = table.column(name).type
        whole = table.column(name).cast(pa.int8()) if pa.types.is_boolean(kind) else table.column(name)
        values: Float[np.ndarray, " n"] = whole.cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"{where}, column {name}: {error}", "Each value is 1, 0 or empty.") from error
    if wrong := sorted(set(values[~np.isnan(values)]) - {0.0, 1.0}):
        raise InputError(f"{where}, column {name}: {wrong[0]:g} is neither 1 nor 0.", "Leave unknown ones empty.")
    return values
