"""A dataset's timings and scores become what each rule costs and rejects, and the order that would cost least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_pipeline import rules
from data_pipeline.labels.names import STAGE as LABELS
from data_pipeline.policy import Rule
from data_pipeline.rules import Verdicts
from data_pipeline.signals import CLOSER_SCORES
from data_pipeline.stored import align, numbers, read, read_clips, read_manifest
from groundwork.storage import Storage, open_storage


@dataclass(frozen=True)
class RuleCost:
    """One rule on the clips it can judge: `cpu_milliseconds` of its signal per clip, `rejected_share` of those clips
    (0 to 1) if it stood alone, and what one rejection costs (None: it rejects nothing, or costs nothing).

    `signal` is where its score comes from; `closer`: it looks at survivors only, so that its place in the order saves
    work. What the one decode pass measures is paid for once, in whatever order its rules stand.
    """

    reason: str
    score: str
    signal: str
    closer: bool
    judged: int
    cpu_milliseconds: float
    rejected_share: float
    cpu_milliseconds_per_rejection: float | None


def rule_costs(dataset: str | Storage) -> dict[str, Any]:
    """`rules`: a RuleCost per rule of a finished dataset, in their order; `cheapest_order` of their reasons;
    `look_order`: the order of closer looks that is fixed, and the sample's prices behind it (empty: none is).

    Raises InputError where there is no finished dataset.
    """
    out = open_storage(dataset) if isinstance(dataset, str) else dataset
    manifest = read_manifest(out)
    ruling = {
        rule["reason"]: Rule.model_validate({key: value for key, value in rule.items() if key != "reason"})
        for rule in manifest["policy"]["rules"]
    }
    clips = read_clips(out, manifest)
    timings = align(read(out, manifest, "timings"), clips.clip_ids)
    spent = {name.removesuffix("_milliseconds"): numbers(timings.column(name)) for name in timings.column_names[1:]}
    sources = _signal_of_score(manifest, out)
    found = [
        measure(reason, rule, clips.scores, signal=sources.get(rule.score, ""), spent=spent)
        for reason, rule in ruling.items()
    ]
    return {
        "rules": [asdict(one) for one in found],
        "cheapest_order": cheapest_order(found),
        "look_order": manifest.get("look_order", {}),
    }


def costs_text(result: Mapping[str, Any]) -> str:
    """`rule_costs` as a table for people."""
    lines = [f"{'rule':<18}{'score':<22}{'signal':<12}{'judged':>7}{'rejects':>9}{'CPU ms':>9}{'per rejection':>15}"]
    for one in result["rules"]:
        price = one["cpu_milliseconds_per_rejection"]
        lines += [
            f"{one['reason']:<18}{one['score']:<22}{one['signal']:<12}{one['judged']:>7}{one['rejected_share']:>9.1%}"
            f"{one['cpu_milliseconds']:>9.1f}{'-' if price is None else format(price, '.1f'):>15}"
        ]
    lines.append(f"cheapest order: {', '.join(result['cheapest_order'])}")
    fixed = result["look_order"]
    told = ", ".join(
        f"{one['signal']} {one['cpu_milliseconds']:.1f} ms, rejects {one['rejected_share']:.1%} of {one['clips']}"
        for one in fixed.get("prices", [])
    )
    order = (
        f"{', '.join(fixed['order'])}, fixed (sample: {told})" if fixed else "not fixed: too few clips, or one signal"
    )
    return "\n".join([*lines, f"order of looks: {order}"])


def measure(
    reason: str,
    rule: Rule,
    scores: Mapping[str, Float[np.ndarray, " n"]],
    *,
    signal: str,
    spent: Mapping[str, Float[np.ndarray, " n"]],
) -> RuleCost:
    """What a rule costs and rejects on the clips that have its score."""
    score = scores.get(rule.score, np.full(0, np.nan))
    seen: Bool[np.ndarray, " n"] = ~np.isnan(score)
    judged = int(seen.sum())
    alone = rules.apply(Verdicts.undecided(judged), {rule.score: score[seen]}, {reason: rule})
    rejected = int((~alone.kept).sum())
    cost = spent.get(signal, np.zeros(len(score)))[seen]
    total = float(np.nansum(cost))
    return RuleCost(
        reason=reason,
        score=rule.score,
        signal=signal,
        # Measured labels cost nothing; a model's are looked for among survivors.
        closer=signal in CLOSER_SCORES or (signal == LABELS and total > 0),
        judged=judged,
        cpu_milliseconds=round(total / judged, 3) if judged else 0.0,
        rejected_share=round(rejected / judged, 6) if judged else 0.0,
        cpu_milliseconds_per_rejection=round(total / rejected, 3) if rejected and total else None,
    )


def cheapest_order(found: Sequence[RuleCost]) -> list[str]:
    """The reasons so that the run costs least: what the pass measures anyway first, as it stands; then the closer looks
    by what one rejection costs (the optimal order of independent filters), and last what rejects nothing."""

    def price(one: RuleCost) -> float:
        return one.cpu_milliseconds / one.rejected_share if one.rejected_share else float("inf")

    free = [one.reason for one in found if not one.closer]
    return free + [one.reason for one in sorted((one for one in found if one.closer), key=price)]


def _signal_of_score(manifest: Mapping[str, Any], out: Storage) -> dict[str, str]:
    """Score → the signals table that holds it."""
    paths = sorted(path for path in manifest["files"] if path.startswith("signals/"))
    return {name: path.split("/")[1] for path in paths for name in out.read_table(path).column_names}
