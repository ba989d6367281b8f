"""Columns of scores become decisions on all clips at once: keep, or drop with a reason, by rules in their order."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from data_pipeline.fingerprint import short_hash
from data_pipeline.policy import Rule
from data_pipeline.signals import CLOSER_SCORES
from groundwork.errors import RecipeError
from groundwork.records import Decision

TOO_SHORT, OVER_LIMIT, NEAR_DUPLICATE = "too_short", "over_limit", "near_duplicate"
"""Reasons that no rule names: a shot that fills no bucket, and kept clips beyond the recipe's `max_clips`."""

Columns = Mapping[str, Float[np.ndarray, " n"]]
_KEPT = -1
_CLOSER = frozenset(name for names in CLOSER_SCORES.values() for name in names)


@dataclass(frozen=True)
class Verdicts:
    """Decisions on n clips, as columns. `code` indexes `reasons`, -1: kept; `score` and `threshold` are NaN for none.

    `reasons` are pairs of reason and score name. `absent` counts, per reason, the clips that had no score when its
    rule's turn came.
    """

    code: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    threshold: Float[np.ndarray, " n"]
    reasons: tuple[tuple[str, str], ...] = ()
    absent: Mapping[str, int] | None = None

    @classmethod
    def undecided(cls, count: int) -> Verdicts:
        """All of them kept, so far."""
        return cls(np.full(count, _KEPT, np.int32), np.full(count, np.nan), np.full(count, np.nan))

    @property
    def kept(self) -> Bool[np.ndarray, " n"]:
        """Which clips are kept."""
        kept: Bool[np.ndarray, " n"] = self.code == _KEPT
        return kept

    def reject(
        self,
        which: Bool[np.ndarray, " n"],
        reason: str,
        *,
        score_name: str = "",
        score: Float[np.ndarray, " n"] | float = np.nan,
        threshold: Float[np.ndarray, " n"] | float = np.nan,
    ) -> Verdicts:
        """Reject those of `which` that are still kept; the first reason stays."""
        newly = which & self.kept
        return replace(
            self,
            code=np.where(newly, np.int32(len(self.reasons)), self.code),
            score=np.where(newly, score, self.score),
            threshold=np.where(newly, threshold, self.threshold),
            reasons=(*self.reasons, (reason, score_name)),
        )

    def reason_column(self) -> pa.Array:
        """The reason of each clip; empty for kept ones."""
        return _named(self.code, [reason for reason, _ in self.reasons])

    def to_table(self, clip_ids: pa.Array) -> pa.Table:
        """The decisions table, in the order of the clips."""
        columns = [
            clip_ids,
            pa.array(self.kept),
            self.reason_column(),
            _named(self.code, [score_name for _, score_name in self.reasons]),
            pa.array(self.score, mask=np.isnan(self.score)),
            pa.array(self.threshold, mask=np.isnan(self.threshold)),
        ]
        return pa.Table.from_arrays(columns, schema=Decision.SCHEMA)


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


def judge(columns: Columns, rules: Mapping[str, Rule], *, shortest_seconds: float) -> Verdicts:
    """Too short shots (no bucket: `bucket_frames` is 0) leave first, then the rules decide in their order."""
    seconds, bucket_frames = columns["seconds"], columns["bucket_frames"]
    verdicts = Verdicts.undecided(len(seconds)).reject(
        bucket_frames == 0, TOO_SHORT, score_name="seconds", score=seconds, threshold=shortest_seconds
    )
    return apply(verdicts, columns, rules)


def apply(verdicts: Verdicts, columns: Columns, rules: Mapping[str, Rule]) -> Verdicts:
    """Reject by the first rule that fires, with the score and the threshold it compared; NaN: no score.

    A score on the threshold is kept. Where the score is absent the rule passes the clip on, or rejects it if it says
    so; either way the clip is counted. A closer look may be absent because another look rejected the clip: so its
    absence has its turn when all that was measured has spoken.
    """
    counts = dict.fromkeys(rules, 0) | dict(verdicts.absent or {})
    late = {}
    for reason, rule in rules.items():
        score = columns.get(rule.score, np.full(len(verdicts.code), np.nan))
        # NaN compares false: an absent score never fires by itself.
        if rule.below is not None:
            verdicts = verdicts.reject(
                score < rule.below, reason, score_name=rule.score, score=score, threshold=rule.below
            )
        if rule.above is not None:
            verdicts = verdicts.reject(
                score > rule.above, reason, score_name=rule.score, score=score, threshold=rule.above
            )
        if rule.score in _CLOSER:
            late[reason] = (rule, np.isnan(score))
        else:
            verdicts, counts[reason] = _without(verdicts, reason, rule, np.isnan(score))
    for reason, (rule, missing) in late.items():
        verdicts, counts[reason] = _without(verdicts, reason, rule, missing)
    return replace(verdicts, absent=counts)


def _without(verdicts: Verdicts, reason: str, rule: Rule, missing: Bool[np.ndarray, " n"]) -> tuple[Verdicts, int]:
    """What becomes of clips without the rule's score, and how many are still kept when they are asked for it."""
    count = int((missing & verdicts.kept).sum())
    return (verdicts.reject(missing, reason, score_name=rule.score) if rule.absent == "reject" else verdicts), count


def decide(clip_id: str, scores: Mapping[str, float | None], rules: Mapping[str, Rule]) -> Decision:
    """The same for one clip; None: no score."""
    columns = {name: np.array([np.nan if value is None else value], float) for name, value in scores.items()}
    return decisions(apply(Verdicts.undecided(1), columns, rules), [clip_id])[0]


def decisions(verdicts: Verdicts, clip_ids: Collection[str]) -> list[Decision]:
    """The decisions as rows."""
    return [Decision(**row) for row in verdicts.to_table(pa.array(clip_ids, pa.string())).to_pylist()]


def over_limit(clip_ids: pa.Array, kept: Bool[np.ndarray, " n"], *, max_clips: int) -> Bool[np.ndarray, " n"]:
    """Which kept clips go beyond the first `max_clips` by id (0: no limit). Ids are hashes: a fair draw of all."""
    over = np.zeros(len(kept), bool)
    chosen = np.flatnonzero(kept)
    if max_clips and len(chosen) > max_clips:
        order = pc.sort_indices(clip_ids.take(pa.array(chosen))).to_numpy()
        over[chosen[order[max_clips:]]] = True
    return over


def reject(
    clip_id: str, reason: str, *, score_name: str = "", score: float | None = None, threshold: float | None = None
) -> Decision:
    """A rejection; without a score where no measurement decided."""
    return Decision(clip_id, kept=False, reason=reason, score_name=score_name, score=score, threshold=threshold)


def policy_hash(rules: Mapping[str, Rule], *, max_clips: int) -> str:
    """Name of a set of rules: the folder of its decisions. The order of rules counts, as the first one decides."""
    return short_hash([[reason, rule.model_dump(mode="json")] for reason, rule in rules.items()], max_clips)[:16]


def _named(code: Int[np.ndarray, " n"], names: list[str]) -> pa.Array:
    """Names by code; empty for -1."""
    dictionary = pa.array([*names, ""], pa.string())
    indices = pa.array(np.where(code == _KEPT, len(names), code).astype(np.int32))
    return pa.DictionaryArray.from_arrays(indices, dictionary).dictionary_decode()
