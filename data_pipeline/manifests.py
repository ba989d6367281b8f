"""A manifest (Parquet, CSV or JSON lines) becomes rows that name a source each, with what it says of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from groundwork.errors import InputError
from groundwork.storage import Storage

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")
_LICENCE = ("licence", "license")
_URI = ("uri", "url", "URL")
_CAPTION = ("caption", "text", "TEXT")
"""Names of a column, the first one that a row has counts; `url` and `text` are those of LAION and COYO."""


@dataclass(frozen=True)
class ManifestRow:
    """`line` counts from 1, as an editor shows it; in Parquet, rows do. `metadata`: JSON of the further columns, empty
    for none. `problem`: why the row names no source."""

    line: int
    uri: str = ""
    licence: str = ""
    metadata: str = ""
    problem: str = ""


def read_manifest(storage: Storage, name: str) -> list[ManifestRow]:
    """All rows, in order. Raises InputError for a file that is no manifest: unreadable, or without a column `uri`."""
    data = storage.read_bytes(name)
    where = f"{storage.uri}/{name}"
    try:
        if name.endswith(".parquet"):
            return list(_from_parquet(data, where))
        text = data.decode("utf-8-sig", "surrogateescape")
        return list(_from_csv(text, where) if name.endswith(".csv") else _from_json_lines(text))
    except (pa.ArrowException, csv.Error) as error:
        raise InputError(f"{where} cannot be read as a manifest: {error}") from error


def _from_parquet(data: bytes, where: str) -> Iterator[ManifestRow]:
    table = pq.read_table(io.BytesIO(data))
    _check_columns(table.column_names, where)
    for line, values in enumerate(table.to_pylist(), start=1):
        yield _row(line, values)


def _from_csv(text: str, where: str) -> Iterator[ManifestRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="")
    _check_columns(reader.fieldnames or (), where)
    for values in reader:
        if "" in values:
            yield ManifestRow(reader.line_num, problem="it has more fields than the first line names")
        else:
            yield _row(reader.line_num, values)


def _from_json_lines(text: str) -> Iterator[ManifestRow]:
    for line, given in enumerate(text.splitlines(), start=1):
        if not given.strip():
            continue
        try:
            values = json.loads(given)
        except ValueError:
            yield ManifestRow(line, problem="it is not valid JSON")
            continue
        yield _row(line, values) if isinstance(values, dict) else ManifestRow(line, problem="it is not a JSON object")


def _check_columns(names: Iterable[str], where: str) -> None:
    if not set(_URI) & set(names):
        raise InputError(f"{where} has no column 'uri'.", f"Its columns: {', '.join(names) or 'none'}.")


def _row(line: int, values: Mapping[str, Any]) -> ManifestRow:
    uri = next((values[name] for name in _URI if name in values), None)
    if not isinstance(uri, str) or not uri.strip():
        return ManifestRow(line, problem="its 'uri' is empty")
    said = {name: value for name, value in values.items() if name not in _URI and value not in (None, "")}
    caption = next((said.pop(name) for name in _CAPTION if isinstance(said.get(name), str)), None)
    said |= {"caption": caption} if caption is not None else {}
    licence = next((str(said.pop(name)) for name in _LICENCE if name in said), "")
    metadata = json.dumps(said, sort_keys=True, ensure_ascii=False, default=str) if said else ""
    try:
        f"{uri}{licence}{metadata}".encode()
    except UnicodeEncodeError:
        return ManifestRow(line, problem="it is not UTF-8")
    return ManifestRow(line, uri.strip(), licence, metadata)
