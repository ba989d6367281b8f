"""Measured labels: evidence of signals with the policy's bounds, and nothing where signals cannot say."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipeline.assess import known_scores
from data_pipeline.labels.measured import SIGNS, label_scores
from data_pipeline.labels.names import LABELS
from data_pipeline.policy import load_policy
from data_pipeline.rules import Verdicts, apply

FINE = {
    "transition_score": 0.0, "flash_rate": 0.5, "slideshow_score": 0.0, "still_share": 0.1, "sharpness_score": 200.0,
    "blockiness_score": 0.05, "jitter_score": 0.1, "luma_mean": 110.0, "clipped_share": 0.02,
    "overlay_text_share": 0.0, "scene_text_share": 0.01,
}  # fmt: skip


def scores(**changes: float) -> dict[str, float]:
    columns = {name: np.array([value]) for name, value in {**FINE, **changes}.items()}
    return {label: float(values[0]) for label, values in label_scores(columns, count=1).items()}


@pytest.mark.parametrize(
    ("label", "changes"),
    [
        ("editing", {"transition_score": 0.9}),
        ("editing", {"flash_rate": 4.0}),
        ("lack_of_motion_connectivity", {"slideshow_score": 0.9}),
        ("lack_of_motion_connectivity", {"still_share": 1.0}),
        ("low_quality", {"sharpness_score": 4.0}),
        ("low_quality", {"blockiness_score": 1.0}),
        ("low_quality", {"jitter_score": 3.0}),
        ("text_dominated", {"overlay_text_share": 0.1}),
    ],
)
def test_one_sign_beyond_its_bound_is_enough_and_speaks_for_its_label_alone(
    label: str, changes: dict[str, float]
) -> None:
    found = scores(**changes)
    assert {name for name, value in found.items() if value > 0.5} == {label}
    assert all(0 <= value <= 1 for value in found.values() if value == value)


def test_on_its_bound_a_sign_is_a_half_and_worse_is_more() -> None:
    assert scores(transition_score=0.8)["editing"] == pytest.approx(0.5)
    assert scores(sharpness_score=15.0)["low_quality"] == pytest.approx(0.5)
    levels = [scores(sharpness_score=value)["low_quality"] for value in (30.0, 15.0, 7.0, 1.0, 0.0)]
    assert levels == sorted(levels)
    assert levels[-1] == 1.0


def test_what_signals_cannot_tell_has_no_score() -> None:
    found = scores()
    assert np.isnan(found["lecture_type"])
    assert np.isnan(found["noisy_screenshots"])
    unread = scores(overlay_text_share=np.nan, scene_text_share=np.nan)
    assert np.isnan(unread["text_dominated"])
    assert unread["editing"] == found["editing"]
    nothing = label_scores({}, count=3)
    assert set(nothing) == set(LABELS)
    assert all(np.isnan(values).all() for values in nothing.values())


def test_the_bounds_are_those_of_the_policy() -> None:
    """A half means what the rules of the policy `cogvideox` mean."""
    assert {sign.score for signs in SIGNS.values() for sign in signs} <= known_scores()
    rules = {rule.score: rule for rule in load_policy("cogvideox").rules.values()}
    numbers = np.random.default_rng(0)
    columns = {name: numbers.uniform(0, 2 * (value + 1), 500) for name, value in FINE.items()}
    found = label_scores(columns, count=500)
    for label, signs in SIGNS.items():
        named = {sign.score: rules[sign.score] for sign in signs if sign.score in rules}
        assert named
        rejected = ~apply(Verdicts.undecided(500), columns, named).kept
        ours = {sign.score: sign for sign in signs if sign.score not in rules}
        rejected |= ~apply(Verdicts.undecided(500), columns, ours).kept
        np.testing.assert_array_equal(found[label] > 0.5, rejected)
