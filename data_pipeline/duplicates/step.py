"""Clips become the groups of copies among them, and the decisions that follow: one of each group stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from data_pipeline import rules
from data_pipeline.assess import THUMBNAIL
from data_pipeline.assessed import Assessed, ClipTable
from data_pipeline.duplicates.find import hash_pairs
from data_pipeline.duplicates.groups import Member, Pair, group, superseded
from data_pipeline.duplicates.hashes import FRAMES, HASH_COLUMNS
from data_pipeline.recipe import DuplicateSettings
from data_pipeline.rules import Verdicts
from groundwork.records import Duplicate

TABLE = "duplicates"
_PICTURES_AT_ONCE = 2048


def drop_duplicates(
    clips: ClipTable,
    verdicts: Verdicts,
    assessed: Assessed,
    settings: DuplicateSettings,
    *,
    bits_per_second: Mapping[str, float],
) -> tuple[Verdicts, list[Duplicate]]:
    """Later verdicts, and all groups found. `bits_per_second`: of each video that has clips, by its video_id.

    Rejected clips are grouped too, so that other thresholds can be tried later, but a kept clip only leaves for another
    kept one. Shots too short for any bucket take no part.
    """
    pairs: list[Pair] = []
    videos = list(bits_per_second)
    if settings.mode in ("hash", "both"):
        frames = assessed.read(videos, ("clip_id", "video_id", *FRAMES))
        frames = frames.filter(frames.column(FRAMES[0]).is_valid())

        def whole(clip_ids: pa.Array) -> pa.Table:
            theirs = frames.filter(pc.is_in(frames.column("clip_id"), value_set=clip_ids)).column("video_id")
            return assessed.read(theirs.unique().to_pylist(), ("clip_id", *HASH_COLUMNS), only=clip_ids)

        pairs += hash_pairs(frames, settings.hash, whole=whole)
    if settings.mode in ("embedding", "both"):
        from data_pipeline.duplicates.embeddings import clip_vectors, embedding_pairs

        names = clips.clip_ids.filter(pa.array(clips.has_bucket))
        pictures = assessed.rows(videos, ("clip_id", "video_id", THUMBNAIL), at_once=_PICTURES_AT_ONCE)
        vectors, theirs = clip_vectors(assessed.out, pictures, settings, only=names)
        pairs += embedding_pairs(vectors, theirs, settings.embedding)
    found = group(_members(clips, verdicts, pairs, bits_per_second), pairs, same_video=within_videos(settings))
    return _decided(clips, verdicts, found), found


def _members(
    clips: ClipTable, verdicts: Verdicts, pairs: Sequence[Pair], bits_per_second: Mapping[str, float]
) -> dict[str, Member]:
    """The clips that have a copy."""
    names = pa.array(sorted({name for pair in pairs for name in (pair.left, pair.right)}), pa.string())
    rows = pc.index_in(names, value_set=clips.clip_ids)
    shown = clips.rows.select(["clip_id", "video_id", "width", "height"]).take(rows).to_pylist()
    kept = verdicts.kept[rows.to_numpy()]
    return {
        row["clip_id"]: Member(
            row["clip_id"], row["video_id"], row["width"] * row["height"], bits_per_second[row["video_id"]], bool(stays)
        )
        for row, stays in zip(shown, kept, strict=True)
    }


def _decided(clips: ClipTable, verdicts: Verdicts, found: Sequence[Duplicate]) -> Verdicts:
    leaving = [row for row in found if row.representative != row.clip_id]
    rows = pc.index_in(pa.array([row.clip_id for row in leaving], pa.string()), value_set=clips.clip_ids).to_numpy()
    which, similarity = np.zeros(len(clips), bool), np.full(len(clips), np.nan)
    which[rows] = True
    similarity[rows] = [row.similarity for row in leaving]
    return verdicts.reject(which, rules.NEAR_DUPLICATE, score_name="similarity", score=similarity)


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
