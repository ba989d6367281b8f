"""Closer looks: what rejects most for its time goes first, stays first in this dataset, and spares clips the others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from data_pipeline import look_order
from data_pipeline.assessed import ClipTable
from data_pipeline.closer import LookCloser, closer_jobs, fingerprints, looks, settle_order
from data_pipeline.closer_notes import Note, read_notes, write_notes
from data_pipeline.look_order import LookPrice, before_each, free_rules, look_prices, read_order
from data_pipeline.outcome import to_row
from data_pipeline.policy import Rule
from data_pipeline.recipe import AestheticsSettings, Bucket, CurateRecipe, SignalSettings
from data_pipeline.rule_costs import costs_text
from data_pipeline.rules import Verdicts, judge
from data_pipeline.signals import aesthetics
from groundwork.media import write_video
from groundwork.records import Clip, to_table
from groundwork.storage import Storage, open_storage
from tests.support.signals import panned

RULES = {
    "written": Rule(score="overlay_text_share", above=0.02, absent="reject"),
    "ugly": Rule(score="aesthetic_score", below=4.5),
    "dark": Rule(score="luma_mean", below=30.0),
    "edited": Rule(score="label_editing", above=0.5, absent="reject"),
}
TEXT = {"overlay_text_share": 0.0, "scene_text_share": 0.0, "text_lines": 0.0}


def order_of(*prices: LookPrice) -> tuple[str, ...]:
    return look_order.look_order(prices, RULES)


def test_rules_on_what_is_measured_anyway_come_before_all_looks() -> None:
    assert list(free_rules(RULES)) == ["dark"]


@pytest.mark.parametrize("milliseconds", [500.0, 620.0, 1100.0])
def test_the_cheaper_rejection_comes_first_and_near_prices_keep_the_order_of_the_policy(milliseconds: float) -> None:
    dear = LookPrice("aesthetics", 64, 100.0, 0.01)
    assert order_of(dear, LookPrice("text", 64, milliseconds, 0.5)) == ("text", "aesthetics")
    assert order_of(LookPrice("text", 64, 9000.0, 0.5), dear) == ("aesthetics", "text")
    near = (LookPrice("aesthetics", 64, 90.0, 0.1), LookPrice("text", 64, 300.0, 0.3))
    assert order_of(*near) == ("text", "aesthetics")


def test_what_rejects_nothing_comes_last() -> None:
    assert order_of(LookPrice("aesthetics", 64, 1.0, 0.0), LookPrice("text", 64, 900.0, 0.02)) == ("text", "aesthetics")


def test_prices_are_those_of_the_clips_of_the_sample_that_were_looked_at() -> None:
    scores = {
        "text": {"overlay_text_share": np.array([0.0, 0.1, np.nan, 0.3, 0.3])},
        "aesthetics": {"aesthetic_score": np.array([5.0, 4.0, 6.0, 6.0, 1.0])},
    }
    spent = {"text": np.array([100.0, 200.0, np.nan, 300.0, 9.0]), "aesthetics": np.full(5, 40.0)}
    sample = np.array([True, True, True, True, False])
    text, beauty = look_prices(scores, spent, RULES, sample=sample)
    assert (text.clips, text.cpu_milliseconds, text.per_rejection) == (3, 200.0, pytest.approx(300.0, rel=1e-4))
    assert (beauty.rejected_share, beauty.per_rejection) == (0.25, 160.0)
    turns = before_each(("text", "aesthetics"), scores, RULES, free=Verdicts.undecided(5))
    # An absent score stops no other look, though its rule rejects in the end.
    assert turns["aesthetics"].reason_column().to_pylist() == ["", "written", "", "written", "written"]


def test_a_look_that_another_one_spared_is_no_reason() -> None:
    columns = {
        "seconds": np.full(2, 2.0),
        "bucket_frames": np.full(2, 9.0),
        "overlay_text_share": np.full(2, np.nan),
        "aesthetic_score": np.array([1.0, 9.0]),
    }
    ruling = {reason: RULES[reason] for reason in ("written", "ugly")}
    verdicts = judge(columns, ruling, shortest_seconds=1.0)
    assert verdicts.reason_column().to_pylist() == ["ugly", "written"]
    assert verdicts.absent == {"written": 1, "ugly": 0}


@pytest.fixture
def recipe(clip_folder: Path) -> CurateRecipe:
    """Both signals; whatever it sees, the aesthetic score is 5."""
    save_file({"weight": torch.zeros(1, 24), "bias": torch.full((1,), 5.0)}, clip_folder / aesthetics.HEAD_FILE)
    return CurateRecipe(
        buckets=(Bucket(num_frames=9, height=96, width=144),),
        rules={"written": RULES["written"], "ugly": Rule(score="aesthetic_score", below=5.5)},
        signals=SignalSettings(text=True, aesthetics=AestheticsSettings(weights=str(clip_folder))),
    )


def price(out: Storage, keys: dict[str, str], *, text: float, beauty: float) -> None:
    """Two clips of the sample of which each signal rejects one, in so many milliseconds."""
    for clip_id, share, score in (("a", 0.0, 5.0), ("b", 0.5, 9.0)):
        found = {**TEXT, "overlay_text_share": share}
        write_notes(out, "text", keys["text"], [Note(clip_id, "text", "", found, cpu_milliseconds=text)])
        note = Note(clip_id, "aesthetics", "", {"aesthetic_score": score}, cpu_milliseconds=beauty)
        write_notes(out, "aesthetics", keys["aesthetics"], [note])


def test_the_order_of_the_sample_is_fixed_and_spares_the_other_clips_dear_looks(
    recipe: CurateRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    monkeypatch.setattr(look_order, "SAMPLE_CLIPS", 2)
    write_video(tmp_path / "pan.mp4", panned(1, count=30, step=2.0), fps=25.0)
    out, keys = open_storage(str(tmp_path / "dataset")), fingerprints(recipe.signals)
    rows = [Clip(name, "video", 0, 30, 1, 25, 0.0, 1.0, 30, 256, 144, 25.0) for name in "abcd"]
    scores = {"seconds": np.full(4, 1.2), "bucket_frames": np.array([9.0, 9.0, 9.0, 0.0])}
    clips = ClipTable(to_table(rows, Clip).append_column("bucket", pa.array(["9"] * 4)), scores)

    def look(recipe: CurateRecipe) -> None:
        asked = [asdict(job) for job in closer_jobs(out, clips, recipe, keys=keys).values()]
        told = recipe.model_dump(mode="json")
        worker = LookCloser(out=out.uri, settings=told["signals"], ruling=told["rules"])
        answers = worker(to_row({"folder": str(tmp_path), "name": "pan.mp4", "jobs": asked}))
        assert {json.loads(answer["payload"])["status"] for answer in answers} == {"ok"}

    jobs = closer_jobs(out, clips, recipe, keys=keys)
    assert {key: (list(job.keys), job.whole) for key, job in jobs.items()} == dict.fromkeys(
        "ab", (["text", "aesthetics"], True)
    )
    price(out, keys, text=400.0, beauty=20.0)
    assert settle_order(out, clips, recipe, keys=keys)
    fixed = read_order(out, keys, recipe.rules)
    assert fixed["order"] == ["aesthetics", "text"]
    assert "aesthetics, text, fixed (sample: text 400.0 ms, rejects 50.0% of 2" in costs_text(
        {"rules": [], "cheapest_order": [], "look_order": fixed}
    )

    look(recipe)
    assert set(read_notes(out, "aesthetics", keys["aesthetics"]).column("clip_id").to_pylist()) == set("abc")
    assert set(read_notes(out, "text", keys["text"]).column("clip_id").to_pylist()) == set("ab")
    found = looks(out, clips, recipe, keys=keys, failed={})
    assert found["text"].absent.to_pylist() == ["", "", "rejected before: ugly", "rejected before: too_short"]
    assert found["aesthetics"].absent.to_pylist() == ["", "", "", "rejected before: too_short"]
    columns = {**scores, **found["text"].scores, **found["aesthetics"].scores}
    reasons = judge(columns, recipe.rules, shortest_seconds=1.0).reason_column().to_pylist()
    assert reasons == ["ugly", "written", "ugly", "too_short"]

    price(out, keys, text=1.0, beauty=900.0)  # other times change nothing any more
    assert not settle_order(out, clips, recipe, keys=keys)
    assert closer_jobs(out, clips, recipe, keys=keys) == {}
    assert looks(out, clips, recipe, keys=keys, failed={})["text"].absent == found["text"].absent

    mild = recipe.model_copy(update={"rules": {**recipe.rules, "ugly": Rule(score="aesthetic_score", below=4.5)}})
    assert settle_order(out, clips, mild, keys=keys)  # other rules: an order of their own, from the same sample
    assert {key: list(job.keys) for key, job in closer_jobs(out, clips, mild, keys=keys).items()} == {"c": ["text"]}
    look(mild)
    assert closer_jobs(out, clips, mild, keys=keys) == {}
    # What was measured for other rules does not leak into a dataset of the first ones.
    again = looks(out, clips, recipe, keys=keys, failed={})
    assert again["text"].absent == found["text"].absent
    np.testing.assert_equal(again["text"].scores, found["text"].scores)
