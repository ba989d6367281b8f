"""Rows of a frozen type ↔ an Arrow table of that type's schema."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Protocol, TypeVar

import pyarrow as pa

from groundwork.errors import InputError


class Row(Protocol):
    """A frozen dataclass whose field names equal the columns of its `SCHEMA`."""

    SCHEMA: ClassVar[pa.Schema]
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]


R = TypeVar("R", bound=Row)


def to_table(rows: Iterable[R], row_type: type[R]) -> pa.Table:
    """The rows as a table of exactly the type's schema; no rows give an empty table."""
    names = row_type.SCHEMA.names
    return pa.Table.from_pylist([{name: getattr(row, name) for name in names} for row in rows], schema=row_type.SCHEMA)


def from_table(table: pa.Table, row_type: type[R]) -> list[R]:
    """The table's rows. Raises InputError when a column of the type is missing that has no default (those with one came
    later: older tables are read too); further columns are ignored."""
    present = [name for name in row_type.SCHEMA.names if name in table.column_names]
    missing = [name for name in row_type.SCHEMA.names if name not in present and _required(row_type, name)]
    if missing:
        raise InputError(f"A table of {row_type.__name__} rows lacks the columns {', '.join(missing)}.")
    return [row_type(**values) for values in table.select(present).to_pylist()]


def _required(row_type: type[Row], name: str) -> bool:
    told = row_type.__dataclass_fields__[name]
    return told.default is dataclasses.MISSING and told.default_factory is dataclasses.MISSING
