"""The clips of all videos become pairs of copies, by their hash sequences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from data_pipeline.duplicates.align import align
from data_pipeline.duplicates.candidates import Candidate, find_candidates
from data_pipeline.duplicates.groups import HASH, Pair
from data_pipeline.duplicates.hashes import ClipHashes
from data_pipeline.recipe import HashSettings

_MOST_VIEWS = 4


def hash_pairs(clips: pa.Table, settings: HashSettings, *, whole: Callable[[pa.Array], pa.Table]) -> list[Pair]:
    """Pairs of clips (by clip_id) that are copies of each other. The order of the clips does not matter.

    `clips` has the columns clip_id, video_id and FRAMES; `whole` gives clip_id and all HASH_COLUMNS of the clips that
    it is asked for, in any order: of candidates only. Candidates are looked at in the view with most hits first, then
    in a few more; the first view in which the clips agree decides.
    """
    clips = clips.sort_by("clip_id")
    names = clips.column("clip_id").combine_chunks()
    videos = clips.column("video_id").combine_chunks().dictionary_encode().indices.to_numpy()
    candidates = find_candidates(clips, videos, max_bits=settings.max_bits, same_video=settings.same_video)
    if not candidates:
        return []
    chosen = np.unique([(found.left, found.right) for found in candidates])
    table = whole(names.take(pa.array(chosen))).sort_by("clip_id").combine_chunks()
    rows = dict(zip(chosen.tolist(), range(len(chosen)), strict=True))
    return [
        Pair(names[left].as_py(), names[right].as_py(), similarity, offset, HASH)
        for left, right, similarity, offset in _agreeing(candidates, table, rows, settings)
    ]


def _agreeing(
    candidates: list[Candidate], table: pa.Table, rows: dict[int, int], settings: HashSettings
) -> list[tuple[int, int, float, float]]:
    pairs: dict[tuple[int, int], tuple[int, int, float, float]] = {}
    tried: dict[tuple[int, int], int] = {}
    for found in candidates:
        key = (min(found.left, found.right), max(found.left, found.right))
        tried[key] = tried.get(key, 0) + 1
        if key in pairs or tried[key] > _MOST_VIEWS:
            continue
        left, right = (ClipHashes.from_row(table, rows[number]) for number in (found.left, found.right))
        match = align(left, right, view=found.view, settings=settings)
        if match is not None:
            pairs[key] = (found.left, found.right, match.similarity, match.offset_seconds)
    return [pairs[key] for key in sorted(pairs)]
