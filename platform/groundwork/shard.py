"""Rows with large binary values become a Parquet file whose values are read by byte range: the layout of a shard.

One row group per row, nothing compressed or encoded as a dictionary: a value is the last bytes of its column chunk. The
footer holds, beside Parquet's own places of the chunks, an index: all narrow columns of all rows, and the size of each
value. So a reader needs the footer and one request per row, and any other Parquet reader reads the file as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from groundwork.errors import InputError
from groundwork.records.row import Row, to_table
from groundwork.storage import Storage

R = TypeVar("R", bound=Row)
INDEX = b"index"
_SIZE = "{}_bytes"
_HINT = "Run the curation again: it makes damaged shards, and those of older versions, anew."


@dataclass(frozen=True)
class Footer:
    """What a shard says of itself: a table of its narrow columns, and where each value of a large column lies.

    `places`: per large column, (first byte, bytes) of each row's value. `metadata`: what its writer added.
    """

    rows: pa.Table
    places: Mapping[str, Int[np.ndarray, "rows 2"]]
    metadata: Mapping[str, str]


def write_shard(
    out: Storage, path: str, rows: Iterable[R], row_type: type[R], *, metadata: Mapping[str, str] | None = None
) -> int:
    """Write rows as they come, one in memory at a time; returns how many, at least one. Equal rows, equal bytes."""
    schema, narrow, count = row_type.SCHEMA, list[pa.Table](), 0
    large = _large_columns(schema)
    with (
        out.new_file(path) as local,
        pq.ParquetWriter(
            local,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ) as writer,
    ):
        for row in rows:
            table = to_table([row], row_type)
            writer.write_table(table)
            for name in large:
                size = pa.array([len(getattr(row, name))], pa.int64())
                table = table.drop_columns(name).append_column(_SIZE.format(name), size)
            narrow.append(table)
            count += 1
        assert narrow, "a shard has rows"
        index = pa.concat_tables(narrow).combine_chunks()
        writer.add_key_value_metadata({INDEX.decode(): _packed(index), **(metadata or {})})
    return count


def read_footer(out: Storage, path: str) -> Footer:
    """Read a shard's footer and nothing else.

    Raises InputError for a damaged file, or one that is no shard.
    """
    try:
        with pq.ParquetFile(out.path(path), filesystem=out.filesystem) as file:
            found, schema = file.metadata, file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{out.uri}/{path} is damaged: {error}", _HINT) from error
    own = dict(found.metadata or {})
    if INDEX not in own:
        raise InputError(f"{out.uri}/{path} has no index of its rows: it was not written as a shard.", _HINT)
    rows = _unpacked(own.pop(INDEX))
    places = {name: _places(found, schema.names.index(name), rows, name) for name in _large_columns(schema)}
    told = {key.decode(): value.decode() for key, value in own.items() if key != b"ARROW:schema"}
    return Footer(rows, places, told)


def read_rows(out: Storage, path: str, footer: Footer, row_type: type[R], numbers: Iterable[int]) -> Iterable[R]:
    """Some rows of a shard, one in memory at a time. Raises InputError where the file is damaged."""
    names = [name for name in row_type.SCHEMA.names if name in footer.rows.column_names]
    for number in numbers:
        narrow = footer.rows.slice(number, 1).select(names).to_pylist()[0]
        large = {name: bytes(read_value(out, path, places[number])) for name, places in footer.places.items()}
        yield row_type(**narrow, **large)


def read_value(out: Storage, path: str, place: Int[np.ndarray, " 2"]) -> memoryview:
    """One value of a large column. Raises InputError when it does not lie there, StorageError for a failed read."""
    start, length = map(int, place)
    data = memoryview(out.read_range(path, start=start - 4, length=length + 4))
    return checked(data, where=f"{out.uri}/{path}")


def checked(data: memoryview, *, where: str) -> memoryview:
    """A value without the length that stands before it. Raises InputError when that is not the value's length."""
    if int.from_bytes(data[:4], "little") != len(data) - 4:
        raise InputError(f"{where} is damaged: its footer and its content do not agree.", _HINT)
    return data[4:]


def _large_columns(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_large_binary(field.type)]


def _places(found: pq.FileMetaData, column: int, rows: pa.Table, name: str) -> Int[np.ndarray, "rows 2"]:
    """A chunk holds one value, uncompressed, and ends with it."""
    chunks = [found.row_group(number).column(column) for number in range(len(rows))]
    ends = np.array([chunk.data_page_offset + chunk.total_compressed_size for chunk in chunks], dtype=np.int64)
    sizes = rows.column(_SIZE.format(name)).to_numpy()
    return np.stack([ends - sizes, sizes], axis=1)


def _packed(index: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, index.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
        stream.write_table(index)
    return base64.b64encode(sink.getvalue()).decode()


def _unpacked(index: bytes) -> pa.Table:
    with pa.ipc.open_stream(base64.b64decode(index)) as stream:
        return stream.read_all()
