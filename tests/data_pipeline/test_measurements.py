"""What is measured already and what is left: parts are kept, joined once, and never measured twice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.analysis import Analysis, Header
from data_pipeline.assess import schema
from data_pipeline.assessed import Assessed
from data_pipeline.failures import CRASHED, DAMAGED, TIMEOUT
from data_pipeline.ingest import Source
from data_pipeline.measurements import MeasureJob, Measurements, failed_videos, further_parts
from data_pipeline.outcome import FAILED, OK, Outcome, to_row
from data_pipeline.recipe import LimitSettings
from data_pipeline.sandbox import Measured, Refused
from data_pipeline.workers import AnalyseVideo
from groundwork.storage import open_storage

LIMITS = LimitSettings().model_dump(mode="json")
FILM = Source(uri="/films/a.mp4", folder="/films", name="a.mp4", video_id="a")
FIRST = MeasureJob("a", "/films", "a.mp4")


def piece(part: int, *, rows: int = 3) -> Analysis:
    pts = np.arange(rows) + 10 * part
    frames = pa.table(
        {"pts": pts, "seconds": pts / 25, "gap": np.zeros(rows, bool), "thumbnail": pa.array([b""] * rows)}
    )
    return Analysis(Header("mov", "h264", 25.0, 9.0, 64, 48, 1, 25), frames, 10.0 + part, {"motion": 1.0})


@pytest.fixture
def kept(tmp_path: Path) -> Measurements:
    return Measurements(open_storage(tmp_path), "f", 600.0, LIMITS)


def test_parts_that_stand_are_not_asked_for_again(kept: Measurements) -> None:
    assert kept.standing([FILM]) == ({}, [FIRST])
    kept.write(FIRST, piece(0), num_parts=3)
    kept.write(MeasureJob("a", "/films", "a.mp4", 2, 3), piece(2), num_parts=3)
    assert kept.standing([FILM]) == ({}, [MeasureJob("a", "/films", "a.mp4", 1, 3)])
    assert kept.join_parts("a", 3) is None
    kept.write(MeasureJob("a", "/films", "a.mp4", 1, 3), piece(1), num_parts=3)
    # Killed before they were joined: one is asked for again, and the worker finds it there.
    assert kept.standing([FILM]) == ({}, [MeasureJob("a", "/films", "a.mp4", 2, 3)])
    assert kept.join_parts("a", 3) is not None
    whole = kept.read("a")
    assert whole.frames["pts"].to_pylist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert (whole.cpu_milliseconds, whole.signal_milliseconds) == (33.0, {"motion": 3.0})
    assert kept.standing([FILM], assessed={"a"}) == ({}, [])
    assert kept.out.list() == ["work/analysis/f/a.parquet"]


def test_parts_of_another_length_are_not_mixed_with_these(kept: Measurements) -> None:
    kept.write(FIRST, piece(0), num_parts=3)
    other = Measurements(kept.out, "f", 60.0, LIMITS)
    assert other.standing([FILM]) == ({}, [FIRST])


def test_a_failure_by_limits_holds_while_the_limits_do(kept: Measurements) -> None:
    for reason, again in ((TIMEOUT, True), (DAMAGED, False), (CRASHED, True)):
        outcome = Outcome("a", FAILED, reason, "why")
        kept.note_failure(outcome)
        wider = Measurements(kept.out, "f", 600.0, {**LIMITS, "cpu_seconds": 1e6})
        same = ({}, [FIRST]) if reason == CRASHED else ({"a": outcome}, [])
        assert kept.standing([FILM]) == same
        assert wider.standing([FILM]) == (({}, [FIRST]) if again else same)
        kept.out.delete(kept.failure_path("a"))


def test_the_first_part_brings_the_others_and_one_failed_part_fails_the_film() -> None:
    outcomes = {"a": Outcome("a", OK, num_parts=3)}
    further = further_parts([FIRST], outcomes)
    assert [(job.part, job.num_parts, job.key) for job in further] == [(1, 3, "a/1"), (2, 3, "a/2")]
    assert further_parts(further, {"a/1": Outcome("a/1", OK, num_parts=3)}) == []
    outcomes |= {"a/1": Outcome("a/1", FAILED, CRASHED, "died"), "a/2": Outcome("a/2", OK, num_parts=3)}
    assert failed_videos([FIRST, *further], outcomes) == {"a": Outcome("a", FAILED, CRASHED, "died")}


def test_a_worker_measures_what_is_missing_and_joins_when_it_is_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Fake:
        def __init__(self, _: LimitSettings, *, neural: object) -> None: ...

        def analyse(self, path: Path, *, split_seconds: float, part: int) -> Measured | Refused:
            assert (path, split_seconds) == (tmp_path / "a.mp4", 600.0)
            asked.append(part)
            return Measured(piece(part).to_table(), 2)

    monkeypatch.setattr("data_pipeline.workers.Sandbox", Fake)
    monkeypatch.setattr("data_pipeline.workers.assess", lambda *_: schema().empty_table())
    limits: dict[str, Any] = {**LIMITS, "max_frames": 6}
    recipe = {"buckets": [{"num_frames": 9, "height": 32, "width": 48}], "limits": limits}
    worker = AnalyseVideo(out=str(tmp_path), fingerprint="f", assessed="a", recipe=recipe)
    out = open_storage(tmp_path)

    def measure(part: int, num_parts: int) -> Outcome:
        job = {"video_id": "a", "folder": str(tmp_path), "name": "a.mp4", "part": part, "num_parts": num_parts}
        return Outcome(**json.loads(worker(to_row(job))["payload"]))

    assert measure(0, 0) == Outcome("a", OK, num_parts=2)
    assert measure(0, 2) == Outcome("a", OK, num_parts=2)
    assert not Assessed(out, "a").standing()
    assert measure(1, 2) == Outcome("a/1", OK, num_parts=2)
    assert asked == [0, 1]
    kept = Measurements(out, "f", 600.0, limits)
    assert kept.read("a").frames.num_rows == 6
    assert kept.standing([FILM], assessed=Assessed(out, "a").standing()) == ({}, [])
    assert kept.standing([FILM], assessed=Assessed(out, "other").standing()) == ({}, [replace(FIRST, measured=True)])
