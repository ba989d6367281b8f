"""Hash sequences become pairs of clips worth a closer look: banded locality-sensitive hashing, never all pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, UInt64

from data_pipeline.duplicates.hashes import NUM_VIEWS

_BANDS = 8
_LARGEST_BUCKET = 128
_PAIRS_AT_ONCE = 1 << 23


@dataclass(frozen=True)
class Candidate:
    """Frames of clip `left`, looked at in one of its views, resemble `hits` whole frames of clip `right`."""

    left: int
    right: int
    view: int
    hits: int


def find_candidates(
    clips: pa.Table, videos: Int[np.ndarray, " clips"], *, max_bits: int, same_video: bool
) -> list[Candidate]:
    """Pairs of clips with frames whose hashes differ in at most `max_bits`, most hits first for each pair. `clips` has
    the columns FRAMES; clips go by their row.

    Each band is a fixed choice of bits; hashes that agree in all of them meet. In a bucket with very many hashes only
    the first ones are met: they stand for the others, since whatever resembles them is joined through them.
    """
    frames, sizes = _lists(clips.column("hash_dense"))
    dense, owner = _flat(frames, sizes)
    probes, sizes = _lists(clips.column("hash_probes"))
    by_view = probes.reshape(-1, NUM_VIEWS)
    columns = [_flat(by_view[:, view], sizes // NUM_VIEWS) for view in range(NUM_VIEWS)]
    del frames, probes, by_view
    counts: dict[int, int] = {}
    for mask in _masks(len(dense)):
        keys = dense & mask
        order = np.lexsort((owner, keys))
        table = _Table(keys[order], dense[order], owner[order])
        for view, (hashes, clip) in enumerate(columns):
            for left, right in _met(table, hashes, clip, mask=mask, max_bits=max_bits):
                fit = left != right if same_video else videos[left] != videos[right]
                _count(counts, left[fit], right[fit], view, len(clips))
    found = [_candidate(key, hits, len(clips)) for key, hits in counts.items()]
    found.sort(key=lambda c: (min(c.left, c.right), max(c.left, c.right), -c.hits, c.view, c.left))
    return found


@dataclass(frozen=True)
class _Table:
    """Hashes of whole frames, sorted by key, with the clips they belong to."""

    keys: UInt64[np.ndarray, " n"]
    hashes: UInt64[np.ndarray, " n"]
    owner: Int[np.ndarray, " n"]


def _masks(count: int) -> list[np.uint64]:
    """The bits of each band: the more hashes there are, the more bits must agree, so that buckets stay small."""
    width = 16 if count < 1 << 17 else 20 if count < 1 << 21 else 24
    return [np.uint64(sum(1 << bit for bit in random.Random(band).sample(range(64), width))) for band in range(_BANDS)]


def _lists(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The values of all lists, and how many each list has."""
    whole = column.combine_chunks()
    return whole.flatten().to_numpy(), pc.list_value_length(whole).to_numpy()


def _flat(hashes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The telling hashes of all clips, each once per clip, and the number of the clip of each."""
    owner = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    order = np.lexsort((hashes, owner))
    hashes, owner = hashes[order], owner[order]
    new = np.ones(len(hashes), dtype=bool)
    new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
    new &= hashes != 0
    return hashes[new], owner[new]


def _met(
    table: _Table, hashes: np.ndarray, clip: np.ndarray, *, mask: np.uint64, max_bits: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs (clip of the probe, clip of the whole frame) of hashes in one bucket that are alike."""
    keys = hashes & mask
    order = np.argsort(keys, kind="stable")
    keys, hashes, clip = keys[order], hashes[order], clip[order]
    first = np.searchsorted(table.keys, keys, side="left")
    sizes = np.minimum(np.searchsorted(table.keys, keys, side="right") - first, _LARGEST_BUCKET)
    chunks = np.searchsorted(np.cumsum(sizes), np.arange(_PAIRS_AT_ONCE, sizes.sum() + _PAIRS_AT_ONCE, _PAIRS_AT_ONCE))
    begin = 0
    for end in [*(int(chunk) + 1 for chunk in chunks)]:
        part = slice(begin, min(end, len(keys)))
        begin = part.stop
        probe = np.repeat(np.arange(part.start, part.stop), sizes[part])
        within = np.arange(len(probe)) - np.repeat(np.cumsum(sizes[part]) - sizes[part], sizes[part])
        whole = first[probe] + within
        alike = np.bitwise_count(hashes[probe] ^ table.hashes[whole]) <= max_bits
        yield clip[probe[alike]], table.owner[whole[alike]]


def _count(counts: dict[int, int], left: np.ndarray, right: np.ndarray, view: int, num_clips: int) -> None:
    if view == 0:  # whole frames on both sides: the direction says nothing
        left, right = np.minimum(left, right), np.maximum(left, right)
    keys, hits = np.unique((left.astype(np.int64) * NUM_VIEWS + view) * num_clips + right, return_counts=True)
    for key, number in zip(keys.tolist(), hits.tolist(), strict=True):
        counts[key] = counts.get(key, 0) + number


def _candidate(key: int, hits: int, num_clips: int) -> Candidate:
    rest, right = divmod(key, num_clips)
    left, view = divmod(rest, NUM_VIEWS)
    return Candidate(left, right, view, hits)
