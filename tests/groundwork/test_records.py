"""Every row type has the columns of its schema and comes back from a table as it went in."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from groundwork import records
from groundwork.errors import InputError
from groundwork.records import Caption, Clip, Decision, Latent, Rejected, Video

TYPES: list[Any] = [Caption, Clip, Decision, Latent, Rejected, Video]
SAMPLES: dict[pa.DataType, Any] = {
    pa.string(): "x",
    pa.int32(): 1,
    pa.int64(): 2,
    pa.float64(): 0.5,
    pa.bool_(): True,
    pa.large_binary(): b"\x00\x01",
    pa.list_(pa.string()): ["a"],
    pa.list_(pa.int32()): [1, 2],
    pa.list_(pa.float64()): [0.5, 1.5],
}


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_fields_and_schema_agree_and_a_row_round_trips(kind: Any) -> None:
    assert [field.name for field in dataclasses.fields(kind)] == kind.SCHEMA.names
    row = kind(**{field.name: SAMPLES[field.type] for field in kind.SCHEMA})
    assert records.from_table(records.to_table([row], kind), kind) == [row]
    assert records.to_table([], kind).schema == kind.SCHEMA


def test_a_missing_column_is_named() -> None:
    with pytest.raises(InputError, match=r"Clip rows lacks the columns .*start_pts"):
        records.from_table(pa.table({"clip_id": ["a"]}), Clip)


def test_a_table_from_before_a_column_came_is_read_with_its_default() -> None:
    before = {"clip_id": "a", "text": "A dog.", "short_text": "", "frame_captions": [], "model": "m", "version": "1"}
    (caption,) = records.from_table(pa.Table.from_pylist([before], schema=pa.schema(list(Caption.SCHEMA)[:6])), Caption)
    assert (caption.text, caption.status, caption.repairs) == ("A dog.", "ok", [])
