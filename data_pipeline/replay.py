"""A dataset's stored scores and another policy become new decisions: which clips enter and leave, and why."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from data_pipeline import rules
from data_pipeline.assess import known_scores, shortest_seconds
from data_pipeline.duplicates.step import TABLE as DUPLICATES
from data_pipeline.duplicates.step import near_duplicates
from data_pipeline.policy import Policy, load_policy
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import Verdicts
from data_pipeline.stored import StoredClips, read, read_clips, read_manifest
from groundwork.storage import Storage, open_storage

_PART = "part-00000.parquet"
_FEW = 5


@dataclass(frozen=True)
class Replayed:
    """A policy's verdicts on a dataset's clips, and where they were written."""

    manifest: Mapping[str, Any]
    policy: Policy
    policy_hash: str
    clips: StoredClips
    verdicts: Verdicts


def replay(dataset: str, *, rules_from: str) -> dict[str, Any]:
    """Decide every clip again by a policy (name or file), write decisions/<policy hash>/, and say what changes.

    No video is decoded and the manifest stays as it is: `curate run` with this policy encodes what enters. Raises
    InputError where no finished dataset lies, RecipeError for a wrong policy.
    """
    started = time.monotonic()
    out, policy = open_storage(dataset), load_policy(rules_from)
    replayed = decide_again(out, policy)
    path = f"decisions/{replayed.policy_hash}/{_PART}"
    if path not in replayed.manifest["files"]:  # the manifest's own decisions stand as they are
        out.write_table(path, replayed.verdicts.to_table(replayed.clips.clip_ids))
    return {
        "dataset": out.uri,
        "decisions": path,
        **changes(replayed),
        "not_covered": [item.model_dump() for item in policy.not_covered],
        "seconds": round(time.monotonic() - started, 3),
    }


def decide_again(out: Storage, policy: Policy) -> Replayed:
    """The verdicts of a policy on stored scores; the recipe of the dataset gives the buckets and the limit."""
    rules.check(policy.rules, known=known_scores())
    manifest = read_manifest(out)
    recipe = CurateRecipe.model_validate(manifest["recipe"])
    wanted = {rule.score for rule in policy.rules.values()} | {"seconds", "bucket_frames"}
    clips = read_clips(out, manifest, scores=wanted)
    verdicts = rules.judge(clips.scores, policy.rules, shortest_seconds=shortest_seconds(recipe))
    if any(path.startswith(f"{DUPLICATES}/") for path in manifest["files"]):
        copies = near_duplicates(clips.clip_ids, verdicts.kept, read(out, manifest, DUPLICATES), recipe.duplicates)
        verdicts = verdicts.reject(copies, rules.NEAR_DUPLICATE)
    limit = recipe.clips.max_clips
    over = rules.over_limit(clips.clip_ids, verdicts.kept, max_clips=limit)
    verdicts = verdicts.reject(over, rules.OVER_LIMIT)
    return Replayed(manifest, policy, rules.policy_hash(policy.rules, max_clips=limit), clips, verdicts)


def changes(replayed: Replayed) -> dict[str, Any]:
    """Counts and hours now and before, and what enters (by the old reason) and leaves (by the new one)."""
    clips, verdicts = replayed.clips, replayed.verdicts
    now, reasons = verdicts.kept, verdicts.reason_column()
    before = replayed.manifest.get("policy", {})
    return {
        "policy": {"name": replayed.policy.name, "hash": replayed.policy_hash, "source": replayed.policy.source},
        "before": {
            "policy": before.get("name", ""),
            "hash": before.get("hash", ""),
            **_totals(clips, clips.kept, clips.reasons),
        },
        "now": _totals(clips, now, reasons),
        "enter": _groups(clips, now & ~clips.kept, clips.reasons),
        "leave": _groups(clips, ~now & clips.kept, reasons),
        "absent": {reason: count for reason, count in (verdicts.absent or {}).items() if count},
    }


def _totals(clips: StoredClips, kept: Bool[np.ndarray, " n"], reasons: pa.Array) -> dict[str, Any]:
    groups = _groups(clips, ~kept, reasons)["by_reason"]
    return {
        "clips": {
            "found": len(kept),
            "kept": int(kept.sum()),
            "rejected": {reason: group["clips"] for reason, group in groups.items()},
        },
        "hours": {"found": _hours(clips.seconds), "kept": _hours(clips.seconds[kept])},
    }


def _groups(clips: StoredClips, which: Bool[np.ndarray, " n"], reasons: pa.Array) -> dict[str, Any]:
    """The clips of `which` by reason: how many, how long, and the ids of a few."""
    chosen = np.flatnonzero(which)
    encoded = pc.dictionary_encode(reasons.take(pa.array(chosen)))
    codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
    counts = np.bincount(codes, minlength=len(names))
    hours = np.bincount(codes, weights=clips.seconds[chosen], minlength=len(names)) / 3600
    by_reason = {}
    for code in sorted(range(len(names)), key=lambda code: names[code]):
        few = chosen[np.flatnonzero(codes == code)[:_FEW]]
        by_reason[names[code]] = {
            "clips": int(counts[code]),
            "hours": round(float(hours[code]), 6),
            "ids": clips.clip_ids.take(pa.array(few)).to_pylist(),
        }
    return {"clips": len(chosen), "hours": _hours(clips.seconds[chosen]), "by_reason": by_reason}


def _hours(seconds: Float[np.ndarray, " n"]) -> float:
    return round(float(seconds.sum()) / 3600, 6)


def replay_text(result: Mapping[str, Any]) -> str:
    """The result for people."""
    now, before = result["now"], result["before"]
    lines = [
        f"policy    {result['policy']['name']} ({result['policy']['hash']}), before: {before['policy'] or 'unnamed'} "
        f"({before['hash']})",
        f"clips     {now['clips']['kept']} of {now['clips']['found']} kept ({now['hours']['kept']:.4f} h); "
        f"before {before['clips']['kept']} ({before['hours']['kept']:.4f} h)",
    ]
    for word, what in (("enter", "was rejected as"), ("leave", "now rejected as")):
        groups = result[word]
        lines.append(f"{word:<9} {groups['clips']} clips, {groups['hours']:.4f} h")
        lines += [
            f"          {what} {reason}: {group['clips']} ({group['hours']:.4f} h)  {' '.join(group['ids'])}"
            for reason, group in groups["by_reason"].items()
        ]
    lines += [
        f"absent    {reason}: {count} clips have no such score: passed on unless the rule says otherwise"
        for reason, count in result["absent"].items()
    ]
    lines += [f"not asked {item['asks']}: {item['reason']}" for item in result["not_covered"]]
    lines.append(f"written   {result['decisions']} in {result['seconds']:.1f} s; the dataset itself is unchanged")
    if result["enter"]["clips"] or result["leave"]["clips"]:
        lines.append("to adopt  run 'curate run' as before with --policy and this policy: it encodes what enters")
    return "\n".join(lines)
