"""The captions of a captioner become what a report says of them: counts that add up, lengths, variety, cost."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.captions.language import language_of
from data_pipeline.captions.rules import REJECTED, STATUSES, num_words
from groundwork.records import Caption


def statistics(captions: Sequence[Caption]) -> dict[str, Any]:
    """Plain data: `asked` = ok + repaired + rejected; `rejected_by` and `repairs` count their names; `words` of the
    captions that stand: least, median, mean, most; `distinct` 1, 2 and 3: share of sequences of so many words that are
    different over all captions; languages; tokens and cost of everything that was asked."""
    standing = [caption for caption in captions if caption.status != REJECTED]
    lengths = [num_words(caption.text) for caption in standing]
    counts = Counter(caption.status for caption in captions)
    return {
        "asked": len(captions),
        **{status: counts[status] for status in STATUSES},
        "rejected_by": _sorted(Counter(caption.reason for caption in captions if caption.status == REJECTED)),
        "repairs": _sorted(Counter(name for caption in standing for name in caption.repairs)),
        "asked_again": sum(caption.tries > 1 for caption in captions),
        "words": {
            "least": min(lengths, default=0),
            "median": float(np.median(lengths)) if lengths else 0.0,
            "mean": round(float(np.mean(lengths)), 2) if lengths else 0.0,
            "most": max(lengths, default=0),
        },
        "distinct": {str(size): round(distinct([one.text for one in standing], size), 4) for size in (1, 2, 3)},
        "languages": _sorted(Counter(language_of(caption.text) or "unknown" for caption in standing)),
        "input_tokens": sum(caption.input_tokens for caption in captions),
        "output_tokens": sum(caption.output_tokens for caption in captions),
        "cost": round(sum(caption.cost for caption in captions), 6),
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


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
