"""What was decided about the clips becomes what is to be captioned: the kept ones, with their scores and sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.captions import given
from data_pipeline.captions.agreement import agreement
from data_pipeline.captions.routes import SeenClip
from data_pipeline.captions.rules import REJECTED
from data_pipeline.captions.settings import CaptionSettings
from data_pipeline.captions.statistics import SAMPLE, statistics
from data_pipeline.captions.step import KeptClips
from data_pipeline.dataset import Curated
from data_pipeline.ingest import Source
from groundwork.storage import Storage


def kept_clips(curated: Curated) -> KeptClips:
    """The kept clips of all videos, in their order. A score that is absent is NaN."""
    kept = curated.verdicts.kept
    clips = curated.clips.where(kept)
    columns = dict(clips.scores)
    for looked in curated.looked.values():
        columns |= {name: values[kept] for name, values in looked.scores.items()}
    known = clips.clip_ids

    def scores(clip_ids: Sequence[str]) -> list[Mapping[str, float]]:
        at = pc.index_in(pa.array(clip_ids, pa.string()), value_set=known).to_numpy(zero_copy_only=False)
        chosen = {name: np.asarray(values)[at].tolist() for name, values in columns.items()}
        return [dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)]

    def seen() -> list[SeenClip]:
        sources = {source.video_id: source for source in reversed(curated.sources)}
        names = ["clip_id", "video_id", "start_seconds", "stop_seconds"]
        return [_seen(row, sources[row["video_id"]]) for row in clips.rows.select(names).to_pylist()]

    def told() -> Mapping[str, str]:
        pairs = zip(known.to_pylist(), clips.rows.column("video_id").to_pylist(), strict=True)
        return given.told_of(list(pairs), curated.metadata)

    return KeptClips(known.to_pylist(), seen, scores, told)


def caption_statistics(out: Storage, curated: Curated, settings: CaptionSettings) -> list[dict[str, Any]]:
    """What the manifest says of each captioner's captions, in the recipe's order. With a model for it, `agreement` too:
    mean, least and most cosine of its vectors of thumbnail and caption, over at most SAMPLE clips."""
    told = []
    for name, table in curated.captioned.captions.items():
        agreed = _agreement(out, table, settings.agreement) if settings.agreement else {}
        told.append({"name": name, **statistics(table), **agreed})
    return told


def _agreement(out: Storage, captions: pa.Table, folder: str) -> dict[str, Any]:
    standing = captions.filter(pc.not_equal(captions.column("status"), REJECTED))
    chosen = np.linspace(0, len(standing) - 1, min(SAMPLE, len(standing))).round().astype(int)
    rows = standing.select(["clip_id", "text"]).take(pa.array(chosen, pa.int64())).to_pylist()
    texts = {row["clip_id"]: row["text"] for row in rows}
    wanted = pa.array(sorted(texts), pa.string())
    pictures: dict[str, bytes] = {}
    for path in out.list("thumbnails", suffix=".parquet"):
        table = out.read_table(path)
        found = table.filter(pc.is_in(table.column("clip_id"), value_set=wanted)).to_pylist()
        pictures |= {row["clip_id"]: row["jpeg"] for row in found}
    values = list(agreement(out, texts, pictures, folder=folder).values())
    if not values:
        return {}
    mean, least, most = (round(float(one(values)), 4) for one in (np.mean, min, max))
    return {"agreement": {"model": folder, "clips": len(values), "mean": mean, "least": least, "most": most}}


def _seen(row: Mapping[str, Any], source: Source) -> SeenClip:
    start, stop = row["start_seconds"], row["stop_seconds"]
    return SeenClip(
        row["clip_id"], source.folder, source.name, start, stop, measured=f"{stop - start:.1f} or {stop - start:.0f} s"
    )
