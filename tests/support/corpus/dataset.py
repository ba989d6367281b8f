"""A curated dataset's tables become the rows that are judged: films with their boundaries, clips with their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_pipeline.analysis import Analysis
from data_pipeline.recipe import CurateRecipe, ShotSettings
from data_pipeline.rules import OVER_LIMIT
from data_pipeline.shots import find_shots
from groundwork.storage import Storage

from .judge import BESIDE, Judged, Rows, Span

_LEAST_SHARE = 0.5  # of a clip's frames that a label must cover to be the clip's
_EDGE = 1  # frames of the neighbouring shot that a cut's tolerance allows


def read_films(out: Storage, videos: Rows) -> list[Judged]:
    """Every video of the dataset, its boundaries found again from the stored measurements, as the run finds them."""
    settings = CurateRecipe.model_validate(out.read_json("manifest.json")["recipe"]).shots
    tables = {Path(path).stem: path for path in out.list("work/analysis", suffix=".parquet")}
    films = []
    for row in videos:
        analysis = None
        if row["status"] == "ok" and row["video_id"] in tables:
            analysis = Analysis.from_table(out.read_table(tables[row["video_id"]]))
        films.append(film_of(Path(row["uri"]).name, row["video_id"], row["status"], analysis, settings))
    return films


def film_of(file: str, video_id: str, status: str, analysis: Analysis | None, settings: ShotSettings) -> Judged:
    """One film with the shots that its measurements hold; without measurements it has none.

    Frames that belong to no shot (a fade, a moment of black) have a boundary on each side instead of one in the middle.
    """
    if analysis is None:
        return Judged(file, status, video_id, np.zeros(0, np.int64), [])
    series = analysis.series()
    shots = find_shots(series, settings)
    edges = np.flatnonzero(np.diff(shots.between, prepend=False, append=False))
    found = {*np.flatnonzero(shots.starts & ~shots.between), *edges} - {0, len(shots.starts)}
    starts = sorted(int(index) for index in found)
    return Judged(file, status, video_id, series["pts"], starts)


def read_spans(out: Storage, films: Sequence[Judged], truth: Truth) -> list[Span]:
    """Every clip of the dataset that comes from an undamaged film."""
    by_id = {film.video_id: film for film in films if film.status == "ok"}
    scores = _scores(out)
    reasons = {row["clip_id"]: row["reason"] for row in out.read_table("decisions").to_pylist()}
    spans = []
    for clip in out.read_table("clips").to_pylist():
        film = by_id[clip["video_id"]]
        if film.file in truth.undamaged:
            spans.append(truth.span(film, clip, reason=reasons[clip["clip_id"]], scores=scores[clip["clip_id"]]))
    return spans


class Truth:
    """The labels, to be asked what a clip shows."""

    def __init__(self, labels: Mapping[str, Rows]) -> None:
        self.undamaged = {row["file"] for row in labels["files"] if not row["damage"]}
        self._shots, self._boundaries = _by_file(labels["shots"]), _by_file(labels["boundaries"])

    def span(self, film: Judged, clip: Mapping[str, Any], *, reason: str, scores: Mapping[str, Any]) -> Span:
        """A clip (clip_id, start_pts, stop_pts). A limit on the number of clips is no reason: it says nothing of it."""
        first, stop = (int(i) for i in np.searchsorted(film.pts, [clip["start_pts"], clip["stop_pts"]]))
        reason = "" if reason == OVER_LIMIT else reason
        shots, boundaries = self._shots.get(film.file, []), self._boundaries.get(film.file, [])
        shown = max(
            shots, key=lambda row: _overlap(row, first, stop), default={"take": "", "take_first": 0, "first": 0}
        )
        return Span(
            clip_id=clip["clip_id"],
            file=film.file,
            first=first,
            stop=stop,
            kept=not reason,
            reason=reason,
            scores=scores,
            labels=_labels(shots, first, stop) | _transition(boundaries, first, stop),
            crosses=_crossed(boundaries, first, stop),
            take=shown["take"],
            take_first=shown["take_first"] + first - shown["first"],
        )


def read_groups(out: Storage) -> dict[str, str]:
    """Clip → group of near-duplicates, for the clips that have one."""
    return {row["clip_id"]: row["group"] for row in out.read_table("duplicates").to_pylist()}


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


def _transition(boundaries: Rows, first: int, stop: int) -> frozenset[str]:
    """Whether more than the edge of a fade or dissolve is inside the clip."""
    inside = max((_overlap(row, first, stop) for row in boundaries), default=0)
    return frozenset({"transition"} if inside > BESIDE else ())


def _crossed(boundaries: Rows, first: int, stop: int) -> str:
    """The kind of the boundary inside the clip, if there is one and pictures of both shots are in."""
    for row in boundaries:
        if first + _EDGE < row["frame"] < stop - _EDGE:
            return str(row["kind"])
    return ""
