"""Labels and stored scores become how right each rule is, and the threshold that a wanted precision asks for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from data_pipeline import rules as deciding
from data_pipeline.label.labels import read_labels
from data_pipeline.label.session import policy_rules
from data_pipeline.policy import Rule
from data_pipeline.rules import Verdicts
from data_pipeline.stored import read_clips, read_manifest
from groundwork.errors import InputError
from groundwork.storage import open_storage

_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Confusion:
    """Labelled clips by what the rule says and what the person says. Positive: rejected for this reason."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int

    @property
    def total(self) -> int:
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative

    def row(self) -> dict[str, Any]:
        """The row of the paper's table 14 (shares of the labelled clips), then rates with their 95 % intervals."""
        share = {key: self._share(value) for key, value in asdict(self).items()}
        right = self.true_positive + self.true_negative
        return {
            **share,
            "accuracy": rate(right, self.total),
            "precision": rate(self.true_positive, self.true_positive + self.false_positive),
            "recall": rate(self.true_positive, self.true_positive + self.false_negative),
            "specificity": rate(self.true_negative, self.true_negative + self.false_positive),
        }

    def _share(self, count: int) -> float:
        return round(count / self.total, 4) if self.total else 0.0


def rate(hits: int, total: int) -> dict[str, float] | None:
    """A share with its Wilson interval at 95 %; None for no case at all."""
    if not total:
        return None
    share, z2 = hits / total, _Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return {"value": round(share, 4), "low": round(low, 4), "high": round(high, 4), "of": total}


def confusion(fires: Bool[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> Confusion:
    """Count what a rule says against what is so."""
    return Confusion(
        true_positive=int((fires & wrong).sum()),
        false_positive=int((fires & ~wrong).sum()),
        true_negative=int((~fires & ~wrong).sum()),
        false_negative=int((~fires & wrong).sum()),
    )


def best_threshold(
    score: Float[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], *, side: str, precision: float
) -> dict[str, Any] | None:
    """The threshold that rejects most of the wrong clips with at least the wanted precision; None: there is none.

    `side` is "below" or "above". The threshold lies midway between two labelled scores.
    """
    sign = 1.0 if side == "below" else -1.0
    known = ~np.isnan(score)
    values, truth = sign * score[known], wrong[known]
    order = np.argsort(values, kind="stable")
    values, truth = values[order], truth[order]
    hits = np.cumsum(truth)
    rejected = np.arange(1, len(values) + 1)
    # A threshold cannot part clips of equal score.
    ends = np.flatnonzero(np.append(np.diff(values) > 0, True)) if len(values) else np.zeros(0, int)
    good = [end for end in ends if hits[end] and hits[end] / rejected[end] >= precision]
    if not good:
        return None
    end = max(good, key=lambda end: (hits[end], -end))
    last = float(values[end])
    beyond = float(values[end + 1]) if end + 1 < len(values) else last + max(1e-6, abs(last) * 0.01)
    return {
        "threshold": sign * _between(last, beyond),
        "precision": rate(int(hits[end]), int(rejected[end])),
        "recall": rate(int(hits[end]), int(truth.sum())),
    }


def _between(low: float, high: float) -> float:
    """The middle, in few digits where those tell both ends apart."""
    middle = (low + high) / 2
    short = float(f"{middle:.4g}")
    return short if low < short < high else middle


def calibrate(dataset: str, labels: str, *, precision: float, rules_from: str = "") -> dict[str, Any]:
    """Judge every rule of a policy (the dataset's own by default) on its own by the labels of a session.

    Raises InputError where there is no dataset, no label file, or no label of its clips.
    """
    out = open_storage(dataset)
    manifest = read_manifest(out)
    rules = policy_rules(manifest, rules_from)
    rows = read_labels(out, labels)
    clips = read_clips(out, manifest, scores={rule.score for rule in rules.values()})
    places = pc.index_in(pa.array([row.clip_id for row in rows], pa.string()), value_set=clips.clip_ids).to_pylist()
    known = [(row, place) for row, place in zip(rows, places, strict=True) if place is not None]
    if not known:
        raise InputError(f"No label of {labels!r} belongs to a clip of {dataset}.", "Label this dataset first.")
    chosen = np.array([place for _, place in known])
    columns = {name: values[chosen] for name, values in clips.scores.items()}
    said = [set(row.labels) for row, _ in known]
    return {
        "dataset": out.uri,
        "labelled": len(known),
        "strangers": len(rows) - len(known),
        "wanted_precision": precision,
        "rules": [_judged(reason, rule, columns, said, precision) for reason, rule in rules.items()],
        "any_rule": _any_rule(rules, columns, said),
    }


def _judged(
    reason: str, rule: Rule, columns: Mapping[str, Any], said: Sequence[set[str]], precision: float
) -> dict[str, Any]:
    wrong = np.array([reason in labels for labels in said])
    score = columns[rule.score]
    fires = deciding.apply(Verdicts.undecided(len(said)), columns, {reason: rule}).code >= 0
    sides = [(side, bound) for side, bound in (("below", rule.below), ("above", rule.above)) if bound is not None]
    return {
        "reason": reason,
        "score": rule.score,
        "labelled_so": int(wrong.sum()),
        "absent": int(np.isnan(score).sum()),
        **confusion(fires, wrong).row(),
        "thresholds": [
            {"side": side, "now": bound, "wanted": best_threshold(score, wrong, side=side, precision=precision)}
            for side, bound in sides
        ],
    }


def _any_rule(rules: Mapping[str, Rule], columns: Mapping[str, Any], said: Iterable[set[str]]) -> dict[str, Any]:
    """All rules together against "something is wrong"."""
    wrong = np.array([labels != {"good"} for labels in said])
    fires = deciding.apply(Verdicts.undecided(len(wrong)), columns, rules).code >= 0
    return confusion(fires, wrong).row()
