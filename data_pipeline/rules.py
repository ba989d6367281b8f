"""Scores become keep, or drop with a reason: thresholds from the recipe, tried in their order."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from data_pipeline.fingerprint import short_hash
from data_pipeline.recipe import Rule
from groundwork.errors import RecipeError
from groundwork.records import Decision

TOO_SHORT, OVER_LIMIT = "too_short", "over_limit"


def check(rules: Mapping[str, Rule], *, known: Collection[str]) -> None:
    """Raises RecipeError for a rule on a score that nobody measures; the message names the nearest."""
    for reason, rule in rules.items():
        if rule.score not in known:
            close = difflib.get_close_matches(rule.score, known, n=1)
            meant = f"Did you mean {close[0]!r}? " if close else ""
            raise RecipeError(
                f"rules.{reason}.score: no score {rule.score!r} is measured.",
                f"{meant}Scores: {', '.join(sorted(known))}.",
            )


def decide(clip_id: str, scores: Mapping[str, float], rules: Mapping[str, Rule]) -> Decision:
    """Kept, or rejected by the first rule that fires, with the score and the threshold it compared."""
    for reason, rule in rules.items():
        score = scores[rule.score]
        for threshold, fires in (
            (rule.below, rule.below is not None and score < rule.below),
            (rule.above, rule.above is not None and score > rule.above),
        ):
            if fires:
                return reject(clip_id, reason, score_name=rule.score, score=score, threshold=threshold)
    return Decision(clip_id=clip_id, kept=True, reason="", score_name="", score=None, threshold=None)


def reject(
    clip_id: str, reason: str, *, score_name: str = "", score: float | None = None, threshold: float | None = None
) -> Decision:
    """A rejection; without a score where no measurement decided."""
    return Decision(clip_id, kept=False, reason=reason, score_name=score_name, score=score, threshold=threshold)


def policy_hash(rules: Mapping[str, Rule], *, max_clips: int) -> str:
    """Name of a set of rules: the folder of its decisions. The order of rules counts, as the first one decides."""
    return short_hash([[reason, rule.model_dump(mode="json")] for reason, rule in rules.items()], max_clips)[:16]
