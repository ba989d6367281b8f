"""The closer look: only at clips that the rules before it keep; stored per clip and signal, or absent and said so."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from data_pipeline import closer
from data_pipeline.assess import AssessedClip
from data_pipeline.closer import LookCloser, closer_jobs, require, take_looks, with_looks
from data_pipeline.outcome import to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import AestheticsSettings, Bucket, CurateRecipe, SignalSettings
from data_pipeline.rules import decide
from groundwork.errors import RecipeError, WeightsError
from groundwork.media import write_video
from groundwork.records import Clip
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


def assessed(name: str, ruling: CurateRecipe, *, luma: float = 100.0, motion: float = 9.0) -> AssessedClip:
    clip = Clip(name, "video", 0, 30, 1, 25, 0.0, 1.2, 30, 256, 144, 25.0)
    palette = {f"colour_{colour}": 0.0 for colour in closer_colours()}
    scores = {
        "exposure": {"luma_mean": luma, "upper_light": 0.0, "left_light": 0.0, **palette},
        "motion": {"motion_score": motion, "pan_score": 0.0, "tilt_score": 0.0, "zoom_score": 0.0},
        "sharpness": {"sharpness_score": 100.0},
        "clip": {"seconds": 1.2},
    }
    flat = {key: value for values in scores.values() for key, value in values.items()}
    return AssessedClip(clip, BUCKET, scores, decide(name, flat, ruling.rules), None, b"", 1.0)


def closer_colours() -> tuple[str, ...]:
    from data_pipeline.signals.palette import COLOURS

    return COLOURS


@pytest.fixture
def out(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "dataset"))


def test_only_what_the_rules_in_front_keep_is_looked_at(out: Storage) -> None:
    first = recipe(dark=DARK, written=WRITTEN, static=STATIC)
    clips = [assessed("fine", first), assessed("dark", first, luma=3.0), assessed("still", first, motion=0.0)]
    # `static` stands behind `written`: if both fire, the reason is `written`, so the still clip is looked at too.
    assert set(closer_jobs(out, clips, first, keys=KEYS)) == {"fine", "still"}
    last = recipe(dark=DARK, static=STATIC, written=WRITTEN)
    assert set(closer_jobs(out, clips, last, keys=KEYS)) == {"fine"}


def test_what_was_seen_decides_and_what_was_not_is_said(out: Storage) -> None:
    ruling = recipe(dark=DARK, written=WRITTEN)
    clips = [assessed(name, ruling, luma=luma) for name, luma in (("a", 99.0), ("b", 99.0), ("c", 3.0), ("d", 99.0))]
    for name, share in (("a", 0.0), ("b", 0.3)):
        note = {"scores": {"overlay_text_share": share}, "error": "", "cpu_milliseconds": 70.0}
        out.write_json(f"work/closer/text/{KEYS['text']}/{name}.json", note)
    assert set(closer_jobs(out, clips, ruling, keys=KEYS)) == {"d"}
    found = {item.clip.clip_id: item for item in with_looks(out, clips, ruling, keys=KEYS, failed={})}
    assert {name: item.decision.reason for name, item in found.items()} == {
        "a": "",
        "b": "written",
        "c": "dark",
        "d": "",
    }
    assert found["a"].caption is not None
    assert found["a"].signal_milliseconds == {"text": 70.0}
    assert "text" not in found["a"].absent
    assert found["c"].absent["text"] == "rejected before: dark"
    assert found["d"].absent["text"] == "not measured"
    assert {item.absent["aesthetics"] for item in found.values()} == {"signals.aesthetics.weights is not set"}


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
    good, beyond = (out.read_json(f"work/closer/text/{KEYS['text']}/{name}.json") for name in ("good", "beyond"))
    assert good["scores"] == {"overlay_text_share": 0.0, "scene_text_share": 0.0, "text_lines": 0.0}
    assert good["error"] == ""
    assert good["cpu_milliseconds"] > 0
    assert beyond["scores"] == {}
    assert "damaged" in beyond["error"]
