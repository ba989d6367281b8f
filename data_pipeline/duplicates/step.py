"""Assessed clips become the groups of copies among them, and the decisions that follow: one of each group stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from data_pipeline import rules
from data_pipeline.assess import AssessedClip
from data_pipeline.duplicates.find import hash_pairs
from data_pipeline.duplicates.groups import Member, Pair, group, superseded
from data_pipeline.recipe import DuplicateSettings
from groundwork.records import Duplicate
from groundwork.storage import Storage

TABLE = "duplicates"


def drop_duplicates(
    out: Storage, clips: Sequence[AssessedClip], settings: DuplicateSettings, *, bits_per_second: Mapping[str, float]
) -> tuple[list[AssessedClip], list[Duplicate]]:
    """The clips with later decisions, and all groups found. `bits_per_second`: of each video, by its video_id.

    Rejected clips are grouped too, so that other thresholds can be tried later, but a kept clip only leaves for another
    kept one. Shots too short for any bucket take no part.
    """
    whole = {item.clip.clip_id: item for item in clips if item.bucket is not None}
    videos = {clip_id: item.clip.video_id for clip_id, item in whole.items()}
    pairs: list[Pair] = []
    if settings.mode in ("hash", "both"):
        hashes = {clip_id: item.hashes for clip_id, item in whole.items() if item.hashes is not None}
        pairs += hash_pairs(hashes, videos, settings.hash)
    if settings.mode in ("embedding", "both"):
        from data_pipeline.duplicates.embeddings import clip_vectors, embedding_pairs

        vectors = clip_vectors(out, {clip_id: item.thumbnail for clip_id, item in whole.items()}, settings)
        pairs += embedding_pairs(vectors, videos, settings.embedding)
    members = {clip_id: _member(item, bits_per_second) for clip_id, item in whole.items()}
    found = group(members, pairs, same_video=within_videos(settings))
    by_clip = {row.clip_id: row for row in found}
    return [_decided(replace(item, hashes=None), by_clip.get(item.clip.clip_id)) for item in clips], found


def _member(item: AssessedClip, bits_per_second: Mapping[str, float]) -> Member:
    clip = item.clip
    bits = bits_per_second.get(clip.video_id, 0.0)
    return Member(clip.clip_id, clip.video_id, clip.width * clip.height, bits, item.decision.kept)


def _decided(item: AssessedClip, row: Duplicate | None) -> AssessedClip:
    if row is None or not item.decision.kept or row.representative == row.clip_id:
        return item
    decision = rules.reject(row.clip_id, rules.NEAR_DUPLICATE, score_name="similarity", score=row.similarity)
    return replace(item, decision=decision, caption=None)


def within_videos(settings: DuplicateSettings) -> bool:
    """Whether a clip may leave for another one of its own video."""
    asked = {"hash": settings.hash.same_video, "embedding": settings.embedding.same_video}
    return any(wanted for mode, wanted in asked.items() if settings.mode in (mode, "both"))


def near_duplicates(
    clip_ids: pa.Array, kept: Bool[np.ndarray, " n"], table: pa.Table, settings: DuplicateSettings
) -> Bool[np.ndarray, " n"]:
    """Which kept clips leave under other decisions: the rule of `drop_duplicates`, on the stored groups."""
    rows = pc.index_in(clip_ids, value_set=table.column("clip_id").combine_chunks())
    member = rows.is_valid().to_numpy(zero_copy_only=False)
    chosen = table.take(pa.array(rows.drop_null()))
    groups, videos = (_codes(chosen.column(name)) for name in ("group", "video_id"))
    leaves = np.zeros(len(kept), dtype=bool)
    ranks, within = chosen.column("rank").to_numpy(), within_videos(settings)
    leaves[member] = superseded(kept[member], groups, ranks, videos, same_video=within)
    return leaves


def _codes(column: pa.ChunkedArray) -> Int[np.ndarray, " n"]:
    """Equal values, equal numbers."""
    codes: Int[np.ndarray, " n"] = column.combine_chunks().dictionary_encode().indices.to_numpy()
    return codes
