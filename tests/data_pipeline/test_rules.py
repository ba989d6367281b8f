"""Rules: the first that fires gives the reason, with the numbers that decided."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.assess import known_scores
from data_pipeline.recipe import Rule
from data_pipeline.rules import TOO_SHORT, Verdicts, apply, check, decide, decisions, judge, over_limit, policy_hash
from groundwork.errors import RecipeError
from groundwork.records import Decision

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


def one_by_one(clip_id: str, scores: Mapping[str, float | None], rules: Mapping[str, Rule]) -> Decision:
    """What the columns must agree with: one clip, rule after rule, in plain words."""
    for reason, rule in rules.items():
        score = scores[rule.score]
        if score is None:
            if rule.absent == "reject":
                return Decision(clip_id, False, reason, rule.score, None, None)
        elif rule.below is not None and score < rule.below:
            return Decision(clip_id, False, reason, rule.score, score, rule.below)
        elif rule.above is not None and score > rule.above:
            return Decision(clip_id, False, reason, rule.score, score, rule.above)
    return Decision(clip_id, True, "", "", None, None)


NUMBERS = st.integers(-3, 3).map(float)
RULE = st.builds(
    Rule,
    score=st.sampled_from(["a", "b", "c"]),
    below=NUMBERS,
    above=st.none() | NUMBERS,
    absent=st.sampled_from(["keep", "reject"]),
)
ROW = st.fixed_dictionaries({name: st.none() | NUMBERS for name in "abc"})


@settings(deadline=None)  # a busy machine is no error
@given(st.lists(ROW, max_size=12), st.dictionaries(st.sampled_from("pqrst"), RULE, max_size=5))
def test_deciding_in_columns_equals_deciding_clip_by_clip(
    rows: list[dict[str, float | None]], rules: dict[str, Rule]
) -> None:
    ids = [str(number) for number in range(len(rows))]
    columns = {name: np.array([np.nan if r[name] is None else r[name] for r in rows], float) for name in "abc"}
    together = decisions(apply(Verdicts.undecided(len(rows)), columns, rules), ids)
    assert together == [one_by_one(clip_id, row, rules) for clip_id, row in zip(ids, rows, strict=True)]
    assert together == [decide(clip_id, row, rules) for clip_id, row in zip(ids, rows, strict=True)]


def test_an_absent_score_never_fires_by_itself_and_is_counted() -> None:
    columns = {"luma_mean": np.array([np.nan, 10.0, np.nan])}
    verdicts = apply(Verdicts.undecided(3), columns, {"dark": Rule(score="luma_mean", below=30)})
    assert verdicts.kept.tolist() == [True, False, True]
    assert verdicts.absent == {"dark": 2}
    strict = {"dark": Rule(score="luma_mean", below=30, absent="reject")}
    assert apply(Verdicts.undecided(3), columns, strict).reason_column().to_pylist() == ["dark"] * 3
    assert apply(Verdicts.undecided(3), {}, RULES).absent == {"dark": 3, "odd": 3}


def test_a_shot_without_a_bucket_is_too_short_whatever_the_rules_say() -> None:
    columns = {"seconds": np.array([0.5, 3.0]), "bucket_frames": np.array([0.0, 9.0]), "luma_mean": np.array([1.0, 90])}
    first, second = decisions(judge(columns, RULES, shortest_seconds=1.0), ["a", "b"])
    assert (first.reason, first.score_name, first.score, first.threshold) == (TOO_SHORT, "seconds", 0.5, 1.0)
    assert second.kept


def test_the_limit_keeps_the_first_ids() -> None:
    ids, kept = pa.array(["d", "b", "a", "c"]), np.array([True, True, False, True])
    assert over_limit(ids, kept, max_clips=2).tolist() == [True, False, False, False]
    assert not over_limit(ids, kept, max_clips=0).any()
