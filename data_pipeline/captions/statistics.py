"""The captions of a captioner become what a report says of them: counts that add up, lengths, variety, cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.captions.language import language_of
from data_pipeline.captions.rules import REJECTED, STATUSES, num_words

SAMPLE = 20_000
"""Lengths, variety and languages are those of at most so many captions, spread evenly."""


def statistics(captions: pa.Table) -> dict[str, Any]:
    """Plain data, from rows of `Caption`: `asked` = ok + repaired + rejected; `rejected_by` and `repairs` count their
    names; `words` of the captions that stand: least, median, mean, most; `distinct` 1, 2 and 3: share of sequences of
    so many words that are different over all; languages; tokens and cost of everything that was asked."""
    rejected = pc.equal(captions.column("status"), REJECTED)
    standing = captions.filter(pc.invert(rejected))
    texts = _spread(standing.column("text"), SAMPLE)
    lengths = [num_words(text) for text in texts]
    counts = _counts(captions.column("status"))
    return {
        "asked": len(captions),
        **{status: counts.get(status, 0) for status in STATUSES},
        "rejected_by": _counts(captions.filter(rejected).column("reason")),
        "repairs": _counts(pc.list_flatten(standing.column("repairs"))),
        "asked_again": pc.sum(pc.greater(captions.column("tries"), 1)).as_py() or 0,
        "words": {
            "least": min(lengths, default=0),
            "median": float(np.median(lengths)) if lengths else 0.0,
            "mean": round(float(np.mean(lengths)), 2) if lengths else 0.0,
            "most": max(lengths, default=0),
        },
        "distinct": {str(size): round(distinct(texts, size), 4) for size in (1, 2, 3)},
        "languages": _sorted(Counter(language_of(text) or "unknown" for text in texts)),
        "input_tokens": pc.sum(captions.column("input_tokens")).as_py() or 0,
        "output_tokens": pc.sum(captions.column("output_tokens")).as_py() or 0,
        "cost": round(pc.sum(captions.column("cost")).as_py() or 0.0, 6),
    }


def distinct(texts: Sequence[str], size: int) -> float:
    """Distinct-n (Li 2016): different sequences of `size` words over all such sequences, 0 to 1."""
    seen: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams = [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]
        seen.update(grams)
        total += len(grams)
    return len(seen) / total if total else 0.0


def _spread(column: pa.ChunkedArray, most: int) -> list[str]:
    """At most so many values, spread evenly."""
    chosen = np.linspace(0, len(column) - 1, min(most, len(column))).round().astype(int)
    values: list[str] = column.take(pa.array(chosen, pa.int64())).to_pylist()
    return values


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    return _sorted(Counter({row["values"]: row["counts"] for row in pc.value_counts(column).to_pylist()}))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
