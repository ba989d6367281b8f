"""What closer looks at a sample of clips cost and reject becomes the order in which the other clips are looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_pipeline import rules
from data_pipeline.fingerprint import short_hash
from data_pipeline.labels.names import COLUMNS as LABEL_SCORES
from data_pipeline.policy import Rule
from data_pipeline.rules import Verdicts
from data_pipeline.signals import CLOSER_SCORES
from groundwork.storage import Storage

SAMPLE_CLIPS = 64
"""Clips that every signal looks at before an order is chosen: the first by id, and ids are hashes, so a fair draw."""


@dataclass(frozen=True)
class LookPrice:
    """What a closer signal did on the sample: mean CPU time of a look, share (0 to 1) of the clips that its rules
    reject, and so what one rejection costs (infinite: it rejects nothing)."""

    signal: str
    clips: int
    cpu_milliseconds: float
    rejected_share: float

    @property
    def per_rejection(self) -> float:
        """CPU milliseconds. Independent filters cost least in the rising order of this (Hellerstein and Stonebraker,
        "Predicate migration", SIGMOD 1993, whose rank it is for filters that keep or drop)."""
        return self.cpu_milliseconds / self.rejected_share if self.rejected_share else math.inf


def free_rules(ruling: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules on what is measured anyway: they come before all looks, wherever the policy names them."""
    dear = {name for names in (*CLOSER_SCORES.values(), LABEL_SCORES) for name in names}
    return {reason: rule for reason, rule in ruling.items() if rule.score not in dear}


def look_rules(signal: str, ruling: Mapping[str, Rule]) -> dict[str, Rule]:
    """The rules on the scores of a closer signal, in their order. What it did not measure stops no other look."""
    mine = {reason: rule for reason, rule in ruling.items() if rule.score in CLOSER_SCORES[signal]}
    return {reason: rule.model_copy(update={"absent": "keep"}) for reason, rule in mine.items()}


def before_each(
    order: Sequence[str], scores: Mapping[str, rules.Columns], ruling: Mapping[str, Rule], *, free: Verdicts
) -> dict[str, Verdicts]:
    """What is decided on n clips when a signal's turn comes: `free`, then the rules of the looks before it. `scores`:
    by signal, those of its looks (NaN: it has not looked)."""
    found, standing = {}, free
    for signal in order:
        found[signal] = standing
        standing = rules.apply(standing, scores[signal], look_rules(signal, ruling))
    return found


def look_prices(
    scores: Mapping[str, rules.Columns],
    milliseconds: Mapping[str, Float[np.ndarray, " n"]],
    ruling: Mapping[str, Rule],
    *,
    sample: Bool[np.ndarray, " n"],
) -> list[LookPrice]:
    """One per signal, over the clips of the sample that it looked at (those with a time)."""
    found = []
    for signal, spent in milliseconds.items():
        looked = sample & ~np.isnan(spent)
        count = int(looked.sum())
        mine = {name: column[looked] for name, column in scores[signal].items()}
        rejected = ~rules.apply(Verdicts.undecided(count), mine, look_rules(signal, ruling)).kept
        cost, share = (float(spent[looked].mean()), float(rejected.mean())) if count else (0.0, 0.0)
        found.append(LookPrice(signal, count, round(cost, 3), round(share, 6)))
    return found


def look_order(prices: Sequence[LookPrice], ruling: Mapping[str, Rule]) -> tuple[str, ...]:
    """The signals, cheapest rejection first. Prices count by powers of two, and where they are equal the order of the
    policy stands: what a busy machine adds to a time seldom changes anything."""
    stands = list(ruling)

    def rank(one: LookPrice) -> tuple[float, int, str]:
        places = [stands.index(reason) for reason in look_rules(one.signal, ruling)]
        cost = one.per_rejection
        step = round(math.log2(cost)) if 0 < cost < math.inf else cost
        return step, min(places, default=len(stands)), one.signal

    return tuple(one.signal for one in sorted(prices, key=rank))


def read_order(out: Storage, keys: Mapping[str, str], ruling: Mapping[str, Rule]) -> dict[str, Any]:
    """`order` and the `prices` it comes from, as a run with these signals (`keys`: fingerprints) and rules has fixed it
    for this dataset; empty: none has."""
    path = _path(keys, ruling)
    found: dict[str, Any] = out.read_json(path) if len(keys) > 1 and out.exists(path) else {}
    return found


def fix_order(out: Storage, keys: Mapping[str, str], ruling: Mapping[str, Rule], prices: Sequence[LookPrice]) -> None:
    """Keep the order for all later runs on this dataset: other times would give other bytes."""
    told = {"order": list(look_order(prices, ruling)), "prices": [asdict(one) for one in prices]}
    out.write_json(_path(keys, ruling), told)


def _path(keys: Mapping[str, str], ruling: Mapping[str, Rule]) -> str:
    named = [[reason, rule.model_dump(mode="json")] for reason, rule in ruling.items()]
    return f"work/look_order/{short_hash(dict(keys), named)}.json"
