"""Workers: whatever a file does, the answer is a row; an output that cannot be written stops the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.failures import DAMAGED, UNREADABLE
from data_pipeline.measurements import Measurements
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.recipe import LimitSettings
from data_pipeline.sandbox import Sandbox
from data_pipeline.workers import AnalyseVideo
from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage

LIMITS = LimitSettings().model_dump(mode="json")
RECIPE = {"buckets": [{"num_frames": 9, "height": 32, "width": 48}], "decode": {"split_seconds": 0.0}}


@pytest.fixture(scope="module", autouse=True)
def one_child() -> Iterator[None]:
    """All workers of this file share one decoding process: its start costs more than the tests."""
    sandbox = Sandbox(LimitSettings())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.workers.Sandbox", lambda _, **__: sandbox)
        yield
    sandbox.close()


def kept(out: Path) -> Measurements:
    return Measurements(open_storage(out), "f", 0.0, LIMITS)


def analyse(out: Path, folder: Path, name: str) -> Outcome:
    worker = AnalyseVideo(out=str(out), fingerprint="f", assessed="a", recipe=RECIPE)
    row = worker(to_row({"video_id": "v", "folder": str(folder), "name": name}))
    return Outcome(**json.loads(row["payload"]))


def test_a_good_film_leaves_its_measurements(footage: Path, tmp_path: Path) -> None:
    assert analyse(tmp_path, footage, "city.mpg") == Outcome("v", OK)
    assert kept(tmp_path).read("v").frames.num_rows == 190


def test_a_damaged_film_is_a_row_with_the_reason_and_remembered(footage: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes((footage / "bunny.mp4").read_bytes()[:400_000])
    outcome = analyse(tmp_path / "out", tmp_path, "cut.mp4")
    assert (outcome.status, outcome.reason) == (FAILED, DAMAGED)
    assert outcome.detail.startswith("cut.mp4: cannot be opened"), "no path of this machine in the dataset"
    assert open_storage(tmp_path / "out").read_json(kept(tmp_path).failure_path("v"))["reason"] == DAMAGED


def test_a_film_that_is_gone_is_a_row_too(footage: Path, tmp_path: Path) -> None:
    assert analyse(tmp_path, footage, "gone.mp4").status == FAILED


def test_an_unreadable_source_is_not_remembered_as_damaged(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("connection reset")

    monkeypatch.setattr(Storage, "local_path", refuse)
    assert analyse(tmp_path, footage, "city.mpg").reason == UNREADABLE
    assert open_storage(tmp_path).list() == []


def test_a_full_disk_stops_the_run(footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no space left", "The disk is full")

    monkeypatch.setattr(Storage, "write_table", full)
    outcome = analyse(tmp_path, footage, "city.mpg")
    assert outcome.status == ABORTED
    assert "no space left" in outcome.detail
