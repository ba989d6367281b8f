"""Scores become keep, or drop with a reason: thresholds from the recipe, tried in their order."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipeline.fingerprint import short_hash
from data_pipeline.recipe import Rule
from groundwork.errors import RecipeError
from groundwork.records import Decision

TOO_SHORT, OVER_LIMIT = "too_short", "over_limit"


def decide(clip_id: str, scores: Mapping[str, float], rules: Mapping[str, Rule]) -> Decision:
    """Kept, or rejected by the first rule that fires, with the score and the threshold it compared.

    Raises RecipeError for a rule on a score that nobody measures.
    """
    for reason, rule in rules.items():
        if rule.score not in scores:
            known = ", ".join(sorted(scores))
            raise RecipeError(f"rules.{reason}.score: no score {rule.score!r} is measured.", f"Scores: {known}.")
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
