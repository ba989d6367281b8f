"""A curated dataset's tables become the rows that are judged: films with their boundaries, clips with their labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groundwork.storage import Storage

from .judge import Judged, Rows, Span

_LEAST_SHARE = 0.5  # of a clip's frames that a label must cover to be the clip's
_EDGE = 1  # frames of the neighbouring shot that a cut's tolerance allows


def read_films(out: Storage, videos: Rows) -> list[Judged]:
    """Every video of the dataset; the stages' own measurements hold the frames."""
    tables = {Path(path).name.split(".")[0]: path for path in out.list("work/analysis", suffix=".parquet")}
    films = []
    for row in videos:
        pts, starts = np.zeros(0, np.int64), []
        if row["status"] == "ok" and row["video_id"] in tables:
            frames = out.read_table(tables[row["video_id"]]).select(["pts", "shot_start"])
            pts = frames.column("pts").to_numpy()
            starts = [int(i) for i in np.flatnonzero(frames.column("shot_start").to_numpy()) if i > 0]
        films.append(Judged(Path(row["uri"]).name, row["status"], row["video_id"], pts, starts))
    return films


def read_spans(out: Storage, films: list[Judged], labels: Mapping[str, Rows], rules: Rows) -> list[Span]:
    """Every clip of the dataset. The recipe's limit on clips is no reason: it says nothing about them."""
    by_id = {film.video_id: film for film in films if film.status == "ok"}
    scores = _scores(out)
    decisions = {row["clip_id"]: row for row in out.read_table("decisions").to_pylist()}
    shots, boundaries = _by_file(labels["shots"]), _by_file(labels["boundaries"])
    graded = {row["file"] for row in labels["files"] if not row["damage"]}
    spans = []
    for clip in out.read_table("clips").to_pylist():
        film = by_id[clip["video_id"]]
        if film.file not in graded:
            continue
        first, stop = (int(i) for i in np.searchsorted(film.pts, [clip["start_pts"], clip["stop_pts"]]))
        reason = decisions[clip["clip_id"]]["reason"]
        reason = "" if reason == "over_limit" else reason
        spans.append(
            Span(
                clip_id=clip["clip_id"],
                file=film.file,
                first=first,
                stop=stop,
                kept=not reason,
                reason=reason,
                scores=scores.get(clip["clip_id"], {}),
                labels=_labels(shots.get(film.file, []), first, stop),
                crosses=_crossed(boundaries.get(film.file, []), first, stop),
            )
        )
    return spans


def _scores(out: Storage) -> dict[str, dict[str, float | None]]:
    """All signals of each clip, joined."""
    found: dict[str, dict[str, float | None]] = {}
    folders = sorted({path.rpartition("/")[0] for path in out.list("signals", suffix=".parquet")})
    for folder in folders:
        table = out.read_table(folder)
        numeric = [field.name for field in table.schema if pa.types.is_floating(field.type)]
        for row in table.select(["clip_id", *numeric]).to_pylist():
            found.setdefault(row.pop("clip_id"), {}).update(row)
    return found


def _by_file(rows: Rows) -> dict[str, Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["file"], []).append(row)
    return found


def _overlap(row: Mapping[str, Any], first: int, stop: int) -> int:
    return max(0, min(stop, row["stop"]) - max(first, row["first"]))


def _labels(shots: Rows, first: int, stop: int) -> frozenset[str]:
    """What is injected into most of the clip; empty: clean."""
    covering = [row["label"] for row in shots if _overlap(row, first, stop) >= _LEAST_SHARE * (stop - first)]
    return frozenset(label for label in covering if label != "clean")


def _crossed(boundaries: Rows, first: int, stop: int) -> str:
    """The kind of the boundary inside the clip, if there is one and pictures of both shots are in."""
    for row in boundaries:
        if first + _EDGE < row["frame"] < stop - _EDGE:
            return str(row["kind"])
    return ""
