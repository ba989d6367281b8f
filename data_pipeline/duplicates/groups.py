"""Matches between clips become groups, each with its best member first, and of each group one clip stays kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Shaped

from groundwork.records import Duplicate

HASH, EMBEDDING = "hash", "embedding"


@dataclass(frozen=True)
class Member:
    """What decides between copies: more pixels, then more bits per second of its video, then the lesser clip_id."""

    clip_id: str
    video_id: str
    pixels: int
    bits_per_second: float
    kept: bool

    @property
    def order(self) -> tuple[int, float, str]:
        """The least one is the best."""
        return -self.pixels, -self.bits_per_second, self.clip_id


@dataclass(frozen=True)
class Pair:
    """Two clips that match. The left one's t is the right one's t + `offset_seconds`; None for single pictures."""

    left: str
    right: str
    similarity: float
    offset_seconds: float | None
    kind: str


def group(members: Mapping[str, Member], pairs: Sequence[Pair], *, same_video: bool) -> list[Duplicate]:
    """All members of all groups, by group and rank. The order of `pairs` does not matter.

    A copy cut at other places overlaps two clips of its original and so joins them; unless `same_video`, a clip of the
    representative's own video represents itself.
    """
    nearest: dict[str, Pair] = {}
    direct: dict[tuple[str, str], Pair] = {}
    for pair in pairs:
        for one, other in ((pair.left, pair.right), (pair.right, pair.left)):
            turned = -1 if one == pair.right else 1
            offset = None if pair.offset_seconds is None else turned * pair.offset_seconds + 0.0  # no -0.0
            seen = Pair(one, other, pair.similarity, offset, pair.kind)
            nearest[one] = _better(nearest.get(one), seen)
            direct[one, other] = _better(direct.get((one, other)), seen)
    rows = []
    for clip_ids in sorted(components(direct)):
        ranked = sorted((members[clip_id] for clip_id in clip_ids), key=lambda member: member.order)
        best = next((member for member in ranked if member.kept), ranked[0])
        for rank, member in enumerate(ranked):
            match = direct.get((member.clip_id, best.clip_id))
            bound = match or nearest[member.clip_id]
            same = member is best or (member.video_id == best.video_id and not same_video)
            rows.append(
                Duplicate(
                    clip_id=member.clip_id,
                    video_id=member.video_id,
                    group=clip_ids[0],
                    rank=rank,
                    representative=member.clip_id if same else best.clip_id,
                    similarity=1.0 if same else bound.similarity,
                    offset_seconds=0.0 if same else match.offset_seconds if match else None,
                    kind=bound.kind,
                )
            )
    return rows


def superseded(
    kept: Bool[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    ranks: Shaped[np.ndarray, " n"],
    videos: Shaped[np.ndarray, " n"],
    *,
    same_video: bool,
) -> Bool[np.ndarray, " n"]:
    """Which kept rows leave, because the best kept row of their group stays. A rejected row makes nobody leave, and
    unless `same_video` neither does one of the same video."""
    leaves = np.zeros(len(kept), dtype=bool)
    order = np.lexsort((ranks, groups, ~kept))[: int(kept.sum())]
    if len(order):
        _, first, number = np.unique(groups[order], return_index=True, return_inverse=True)
        best = order[first][number]
        leaves[order] = (order != best) & (same_video | (videos[order] != videos[best]))
    return leaves


def _better(before: Pair | None, now: Pair) -> Pair:
    """The more alike one; of equals hash before embedding, then the lesser name and shift: never the first to come."""
    if before is None:
        return now
    return min(before, now, key=lambda p: (-p.similarity, p.kind != HASH, p.right, abs(p.offset_seconds or 0.0)))


def components(edges: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Groups of names joined by any chain of edges, each sorted (union-find with path halving)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in edges:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    found: dict[str, list[str]] = {}
    for name in parent:
        found.setdefault(root(name), []).append(name)
    return [sorted(names) for names in found.values()]
