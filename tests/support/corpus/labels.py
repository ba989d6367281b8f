"""Graded films become the tables of what is true of them: files, shots, boundaries, as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .graded import HARD, Graded

FILES = pa.schema(
    [
        *(("file", pa.string()), ("kind", pa.string()), ("expected", pa.string()), ("damage", pa.string())),
        *(("copy_of", pa.string()), ("copy_kind", pa.string()), ("group", pa.string())),
        *(("codec", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("fps", pa.int32())),
        *(("gop", pa.int32()), ("variable_rate", pa.bool_()), ("rotation", pa.int32()), ("num_frames", pa.int32())),
    ]
)
SHOTS = pa.schema(
    [
        *(("file", pa.string()), ("first", pa.int32()), ("stop", pa.int32())),
        *(("label", pa.string()), ("strength", pa.float64())),
        *(("take", pa.string()), ("take_first", pa.int32())),
    ]
)
BOUNDARIES = pa.schema(
    [
        *(("file", pa.string()), ("frame", pa.int32()), ("kind", pa.string())),
        *(("first", pa.int32()), ("stop", pa.int32())),
    ]
)


def tables(films: Sequence[Graded]) -> dict[str, pa.Table]:
    """`files`: one row per file; `shots`: frames [first, stop) with what is injected and what they show; `boundaries`:
    the first frame of the shot behind it, and the frames [first, stop) that its transition takes (none: a hard cut)."""
    rows: dict[str, list[dict[str, Any]]] = {"files": [], "shots": [], "boundaries": []}
    for film in films:
        rows["files"].append(_file(film))
        place = -(film.copy.skip if film.copy else 0)
        for number, segment in enumerate(film.segments):
            first, place = place, place + segment.frames
            shown = {"file": film.file, "first": max(0, first), "stop": place, "label": segment.label}
            source = segment.offset + max(0, -first)
            rows["shots"].append(
                {**shown, "strength": segment.strength, "take": segment.take.name, "take_first": source}
            )
            if number + 1 < len(film.segments):
                half = segment.transition // 2 if segment.into not in HARD else 0
                rows["boundaries"].append(
                    {
                        "file": film.file,
                        "frame": place,
                        "kind": segment.into,
                        "first": place - half,
                        "stop": place + half,
                    }
                )
    schemas = {"files": FILES, "shots": SHOTS, "boundaries": BOUNDARIES}
    return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in schemas.items()}


def write(films: Sequence[Graded], folder: Path) -> None:
    """labels/files.parquet, labels/shots.parquet, labels/boundaries.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables(films).items():
        pq.write_table(table, folder / f"{name}.parquet")


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The three tables as rows."""
    return {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in ("files", "shots", "boundaries")}


def _file(film: Graded) -> dict[str, Any]:
    recording = film.recording
    return {
        "file": film.file,
        "kind": film.kind,
        "expected": film.expected,
        "damage": film.damage,
        "copy_of": film.copy.of if film.copy else "",
        "copy_kind": film.copy.kind if film.copy else "",
        "group": film.copy.of if film.copy else film.name if film.kind == "original" else "",
        "codec": recording.codec,
        "width": recording.width,
        "height": recording.height,
        "fps": recording.fps,
        "gop": recording.gop,
        "variable_rate": recording.variable_rate,
        "rotation": recording.rotation,
        "num_frames": film.num_frames - (film.copy.skip if film.copy else 0),
    }
