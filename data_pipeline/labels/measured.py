"""Measured signals become the labels that signals can carry: where no model is at hand.

A score is evidence for the defect and no more: near 0 says that none of its signs was seen, not that a person would see
nothing. Who lectures, and what was filmed off a screen, no signal here can tell: these two labels stay empty. Text
needs `signals.text`, or its label stays empty too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from data_pipeline.labels.names import LABELS
from data_pipeline.policy import Rule

Columns = Mapping[str, Float[np.ndarray, " n"]]

SIGNS: Mapping[str, tuple[Rule, ...]] = {
    "editing": (Rule(score="transition_score", above=0.8), Rule(score="flash_rate", above=3.0)),
    "lack_of_motion_connectivity": (Rule(score="slideshow_score", above=0.5), Rule(score="still_share", above=0.8)),
    "low_quality": (
        Rule(score="sharpness_score", below=15.0),
        Rule(score="blockiness_score", above=0.5),
        Rule(score="jitter_score", above=1.5),
        Rule(score="luma_mean", below=20.0),
        Rule(score="clipped_share", above=0.6),
    ),
    "text_dominated": (Rule(score="overlay_text_share", above=0.02), Rule(score="scene_text_share", above=0.15)),
}
"""The signs of each label, with the bounds of the policy `cogvideox` (for scene text one of its own): one is enough."""

NEED_TEXT = frozenset({"text_dominated"})
"""Labels all of whose signs come from `signals.text`."""


def label_scores(columns: Columns, *, count: int) -> dict[str, Float[np.ndarray, " n"]]:
    """Label → score of `count` clips, 0 to 1, NaN where none of its signs is measured; 0.5 is a sign on its bound."""
    nothing = np.full(count, np.nan)
    found = {}
    for label in LABELS:
        levels = [level(columns.get(sign.score, nothing), sign) for sign in SIGNS.get(label, ())]
        found[label] = np.fmax.reduce(levels) if levels else nothing
    return found


def level(values: Float[np.ndarray, " n"], sign: Rule) -> Float[np.ndarray, " n"]:
    """A signal from 0 upwards as a share of itself and its bound: 0.5 on the bound, more on the wrong side of it."""
    bound = sign.above if sign.above is not None else sign.below
    assert bound is not None, "a rule has a bound"
    share = values / (values + bound)
    found: Float[np.ndarray, " n"] = share if sign.above is not None else 1 - share
    return found
