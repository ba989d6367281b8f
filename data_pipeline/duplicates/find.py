"""The clips of all videos become pairs of copies, by their hash sequences."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from data_pipeline.duplicates.align import align
from data_pipeline.duplicates.candidates import find_candidates
from data_pipeline.duplicates.groups import HASH, Pair
from data_pipeline.duplicates.hashes import ClipHashes
from data_pipeline.recipe import HashSettings

_MOST_VIEWS = 4


def hash_pairs(hashes: Mapping[str, ClipHashes], videos: Mapping[str, str], settings: HashSettings) -> list[Pair]:
    """Pairs of clips (by clip_id) that are copies of each other; `videos`: the video_id of each clip.

    The order of the clips does not matter. Candidates are looked at in the view with most hits first, then in a few
    more; the first view in which the clips agree decides.
    """
    names = sorted(hashes)
    clips = [hashes[name] for name in names]
    _, numbers = np.unique([videos[name] for name in names], return_inverse=True)
    candidates = find_candidates(clips, numbers, max_bits=settings.max_bits, same_video=settings.same_video)
    pairs: dict[tuple[int, int], Pair] = {}
    tried: dict[tuple[int, int], int] = {}
    for found in candidates:
        key = (min(found.left, found.right), max(found.left, found.right))
        tried[key] = tried.get(key, 0) + 1
        if key in pairs or tried[key] > _MOST_VIEWS:
            continue
        match = align(clips[found.left], clips[found.right], view=found.view, settings=settings)
        if match is not None:
            left, right = names[found.left], names[found.right]
            pairs[key] = Pair(left, right, match.similarity, match.offset_seconds, HASH)
    return [pairs[key] for key in sorted(pairs)]
