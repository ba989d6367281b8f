"""Calibrate: counts by hand, Wilson's interval from the literature, thresholds that keep their promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.__main__ import main
from data_pipeline.calibrate import best_threshold, calibrate, confusion, rate
from data_pipeline.label.labels import Label, LabelFile
from data_pipeline.recipe import RECIPES, CurateRecipe, Rule
from data_pipeline.stored import read_clips, read_manifest
from groundwork.config import load_recipe
from groundwork.errors import InputError
from groundwork.storage import Storage, open_storage
from tests.support.synthetic import write_dataset

RULES = {"dark": Rule(score="luma_mean", below=60), "odd": Rule(score="motion_score", below=1, above=20)}


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    """Labels that call a clip dark below 80, where the rule says 60."""
    out = open_storage(tmp_path / "dataset")
    toy = load_recipe(CurateRecipe, "toy", folder=RECIPES)
    write_dataset(out, toy.model_copy(update={"rules": RULES}), clips=200)
    clips = read_clips(out, read_manifest(out))
    labels = LabelFile(out, "mine")
    rows = zip(clips.clip_ids.to_pylist(), clips.scores["luma_mean"], strict=True)
    labels.rows = [Label(clip_id, ("dark",) if luma < 80 else ("good",)) for clip_id, luma in rows]
    labels.put(Label("stranger", ("good",)))
    return out


def test_a_rule_is_judged_by_the_labels(dataset: Storage) -> None:
    result = calibrate(dataset.uri, "mine", precision=0.95)
    luma = read_clips(dataset, read_manifest(dataset)).scores["luma_mean"]
    dark, odd = result["rules"]
    assert (result["labelled"], result["strangers"]) == (200, 1)
    assert dark["true_positive"] == pytest.approx((luma < 60).mean(), abs=1e-4)
    assert dark["false_negative"] == pytest.approx(((luma >= 60) & (luma < 80)).mean(), abs=1e-4)
    assert dark["precision"]["value"] == 1.0
    assert dark["recall"]["value"] == pytest.approx((luma < 60).sum() / (luma < 80).sum(), abs=1e-4)
    wanted = dark["thresholds"][0]["wanted"]
    assert wanted["precision"]["value"] >= 0.95
    assert 79 < wanted["threshold"] < 90
    assert [side["side"] for side in odd["thresholds"]] == ["below", "above"]
    assert odd["thresholds"][0]["wanted"] is None
    assert odd["recall"] is None


def test_wilson_intervals_are_those_of_the_literature() -> None:
    # Newcombe 1998, Statistics in Medicine 17: 81/263, 15/148, 0/20, 1/29 by the score method.
    expected = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, total), (low, high) in expected.items():
        found = rate(hits, total)
        assert found is not None
        assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert rate(0, 0) is None


def test_shares_of_the_confusion_add_up() -> None:
    row = confusion(np.array([1, 1, 0, 0, 0], bool), np.array([1, 0, 0, 0, 1], bool)).row()
    assert [row[key] for key in ("true_positive", "false_positive", "true_negative", "false_negative")] == [
        0.2,
        0.2,
        0.4,
        0.2,
    ]
    assert row["accuracy"]["value"] == 0.6


@settings(deadline=None)  # a busy machine is no error
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20),
    st.sampled_from(["below", "above"]),
    st.sampled_from([0.5, 0.8, 1.0]),
)
def test_a_threshold_has_the_promised_precision_and_none_catches_more(
    rows: list[tuple[int, bool]], side: str, precision: float
) -> None:
    score, wrong = np.array([float(value) for value, _ in rows]), np.array([bad for _, bad in rows])

    def rejected(threshold: float) -> np.ndarray:
        return score < threshold if side == "below" else score > threshold

    found = best_threshold(score, wrong, side=side, precision=precision)
    caught = 0
    if found is not None:
        which = rejected(found["threshold"])
        caught = int((which & wrong).sum())
        assert wrong[which].mean() >= precision
        assert found["recall"]["value"] == pytest.approx(caught / wrong.sum(), abs=1e-4)
    for threshold in np.arange(-0.5, 7.5):
        which = rejected(threshold)
        assert not (which.any() and wrong[which].mean() >= precision and (which & wrong).sum() > caught)


def test_the_command_prints_the_papers_table_and_writes_a_page(
    dataset: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", dataset.uri, "mine", "--precision", "0.9"]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[2].split() == [
        "Filter",
        "TP",
        "FP",
        "TN",
        "FN",
        "Acc",
        "Precision",
        "Recall",
        "Specificity",
    ]
    assert "<table>" in dataset.read_bytes("report/calibration.html").decode()
    assert main(["calibrate", dataset.uri, "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labelled"] == 200
    assert main(["calibrate", dataset.uri]) == 2
    assert main(["calibrate", dataset.uri, "mine", "--precision", "7"]) == 2
    LabelFile(dataset, "empty").put(Label("stranger", ("good",)))
    with pytest.raises(InputError, match="No label of 'empty'"):
        calibrate(dataset.uri, "empty", precision=0.9)
