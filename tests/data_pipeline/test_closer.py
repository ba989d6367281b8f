"""The closer look: only at clips that the rules before it keep; stored per clip and signal, or absent and said so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from data_pipeline import closer
from data_pipeline.assessed import ClipTable
from data_pipeline.closer import LookCloser, closer_jobs, looks, require, take_looks
from data_pipeline.closer_notes import Note, read_notes, write_notes
from data_pipeline.outcome import FAILED, Outcome, to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import AestheticsSettings, Bucket, CurateRecipe, SignalSettings
from data_pipeline.rules import judge
from groundwork.errors import RecipeError, WeightsError
from groundwork.media import write_video
from groundwork.records import Clip, to_table
from groundwork.storage import Storage, open_storage
from tests.support.signals import panned

BUCKET = Bucket(num_frames=9, height=96, width=144)
DARK, WRITTEN, STATIC = (
    Rule(score="luma_mean", below=30.0),
    Rule(score="overlay_text_share", above=0.02),
    Rule(score="motion_score", below=1.0),
)
KEYS = {"text": "0123"}


def recipe(**rules: Rule) -> CurateRecipe:
    return CurateRecipe(buckets=(BUCKET,), rules=rules, signals=SignalSettings(text=True))


def table(clips: Mapping[str, Mapping[str, float]]) -> ClipTable:
    """Clips of a video by name, with other scores than usual."""
    rows = [Clip(name, "video", 0, 30, 1, 25, 0.0, 1.2, 30, 256, 144, 25.0) for name in clips]
    usual = {"luma_mean": 100.0, "motion_score": 9.0, "seconds": 1.2, "bucket_frames": 9.0}
    scores = {name: np.array([{**usual, **own}[name] for own in clips.values()]) for name in usual}
    return ClipTable(to_table(rows, Clip).append_column("bucket", pa.array([BUCKET.folder] * len(rows))), scores)


@pytest.fixture
def out(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "dataset"))


def test_only_what_the_rules_in_front_keep_is_looked_at(out: Storage) -> None:
    first = recipe(dark=DARK, written=WRITTEN, static=STATIC)
    clips = table(
        {"fine": {}, "dark": {"luma_mean": 3.0}, "still": {"motion_score": 0.0}, "short": {"bucket_frames": 0}}
    )
    # `static` stands behind `written`: if both fire, the reason is `written`, so the still clip is looked at too.
    assert set(closer_jobs(out, clips, first, keys=KEYS)) == {"fine", "still"}
    last = recipe(dark=DARK, static=STATIC, written=WRITTEN)
    assert set(closer_jobs(out, clips, last, keys=KEYS)) == {"fine"}


def test_what_was_seen_decides_and_what_was_not_is_said(out: Storage) -> None:
    ruling = recipe(dark=DARK, written=WRITTEN)
    clips = table({"a": {}, "b": {}, "c": {"luma_mean": 3.0}, "d": {}, "e": {}})
    for name, share in (("a", 0.0), ("b", 0.3)):
        notes = [Note(name, "text", KEYS["text"], {"overlay_text_share": share}, cpu_milliseconds=70.0)]
        write_notes(out, "text", KEYS["text"], notes)
    failed = {"e": Outcome("e", FAILED, "crashed", "the worker died")}
    assert set(closer_jobs(out, clips, ruling, keys=KEYS)) == {"d", "e"}
    found = looks(out, clips, ruling, keys=KEYS, failed=failed)
    told = found["text"].absent.to_pylist()
    assert told == ["", "", "rejected before: dark", "not measured", "the worker died"]
    np.testing.assert_equal(found["text"].milliseconds, [70.0, 70.0, np.nan, np.nan, np.nan])
    assert set(found["aesthetics"].absent.to_pylist()) == {"signals.aesthetics.weights is not set"}
    verdicts = judge({**clips.scores, **found["text"].scores}, ruling.rules, shortest_seconds=1.0)
    assert verdicts.reason_column().to_pylist() == ["", "written", "dark", "", ""]


def test_a_rule_that_would_reject_all_for_a_signal_that_is_off_is_an_error_before_the_run() -> None:
    strict = WRITTEN.model_copy(update={"absent": "reject"})
    with pytest.raises(RecipeError, match=r"rules\.written\.score.*signals\.text is off"):
        require(CurateRecipe(buckets=(BUCKET,), rules={"written": strict}))
    require(CurateRecipe(buckets=(BUCKET,), rules={"written": WRITTEN}))  # passes clips on, and is told
    with pytest.raises(WeightsError, match=r"config\.json"):
        require(CurateRecipe(buckets=(BUCKET,), signals=SignalSettings(aesthetics=AestheticsSettings(weights="no"))))


def test_a_missing_detector_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError) as caught:
        require(recipe())
    assert "[text]" in str(caught.value)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "pan.mp4"
    write_video(path, panned(1, count=40, step=2.0), fps=25.0)
    return path


def test_looks_are_the_middle_the_beginning_and_the_end(film: Path) -> None:
    middle, first, last = take_looks(film, start_seconds=0.4, stop_seconds=1.4)
    frames = panned(1, count=40, step=2.0)
    for look, index in ((middle, 23), (first, 13), (last, 33)):
        errors = [np.abs(look.astype(int) - frame).mean() for frame in frames[index - 3 : index + 4]]
        assert 1 <= int(np.argmin(errors)) <= 4


def test_the_worker_writes_scores_once_and_a_span_without_frames_as_a_reason(film: Path, out: Storage) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    worker = LookCloser(out=out.uri, settings={"text": True})
    jobs = [
        asdict(closer.CloserJob("good", 0.0, 1.0, KEYS)),
        asdict(closer.CloserJob("beyond", 90.0, 91.0, KEYS)),
    ]
    row = to_row({"folder": str(film.parent), "name": film.name, "jobs": jobs})
    outcomes = [json.loads(one["payload"]) for one in worker(row)]
    assert [outcome["status"] for outcome in outcomes] == ["ok", "ok"]
    written = read_notes(out, "text", KEYS["text"])
    assert len(out.list("work/closer")) == 1
    good, beyond = written.to_pylist()
    assert (good["overlay_text_share"], good["scene_text_share"], good["text_lines"]) == (0.0, 0.0, 0.0)
    assert good["error"] == ""
    assert good["cpu_milliseconds"] > 0
    assert beyond["text_lines"] is None
    assert "damaged" in beyond["error"]
