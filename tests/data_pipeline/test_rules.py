"""Rules: the first that fires gives the reason, with the numbers that decided."""

from __future__ import annotations

import pytest

from data_pipeline.assess import known_scores
from data_pipeline.recipe import Rule
from data_pipeline.rules import check, decide, policy_hash
from groundwork.errors import RecipeError

RULES = {"dark": Rule(score="luma_mean", below=30), "odd": Rule(score="luma_mean", below=50, above=200)}


def test_the_first_rule_that_fires_gives_the_reason_and_its_numbers() -> None:
    decision = decide("c", {"luma_mean": 20.0}, RULES)
    assert (decision.kept, decision.reason, decision.score, decision.threshold) == (False, "dark", 20.0, 30)
    assert decide("c", {"luma_mean": 20.0}, dict(reversed(RULES.items()))).reason == "odd"
    assert decide("c", {"luma_mean": 201.0}, RULES).threshold == 200


def test_a_score_on_the_threshold_is_kept() -> None:
    decision = decide("c", {"luma_mean": 50.0}, RULES)
    assert decision.kept
    assert decision.reason == ""


def test_a_rule_on_an_unknown_score_is_an_error_that_names_the_nearest() -> None:
    check(RULES, known=known_scores())
    with pytest.raises(RecipeError, match=r"rules\.dark\.score: .*\n.*mean 'motion_score'.*sharpness_score"):
        check({"dark": Rule(score="motion", below=1)}, known=known_scores())


def test_the_policy_hash_knows_thresholds_order_and_cap() -> None:
    turned = dict(reversed(RULES.items()))
    hashes = [policy_hash(RULES, max_clips=0), policy_hash(turned, max_clips=0), policy_hash(RULES, max_clips=1)]
    assert len(set(hashes)) == 3
    assert policy_hash(dict(RULES), max_clips=0) == hashes[0]
