"""All that was decided becomes the dataset's tables on storage, in parts of a bounded number of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.analysis import Header
from data_pipeline.assess import CLIP, CLIP_SCORES, THUMBNAIL, TIMINGS
from data_pipeline.assessed import Assessed
from data_pipeline.captions import given
from data_pipeline.dataset import Curated, fate
from data_pipeline.ingest import Source
from data_pipeline.labels.names import STAGE as LABELS
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import policy_hash
from data_pipeline.signals import CLOSER_SCORES, signal_scores
from groundwork.records import Clip, Duplicate, Rejected, Video, to_table
from groundwork.storage import Storage

ROWS_PER_PART, PICTURES_PER_PART = 200_000, 10_000
_PICTURES_PER_GROUP = 128


def write_tables(
    out: Storage, curated: Curated, recipe: CurateRecipe, *, assessed: Assessed, closer: Mapping[str, str]
) -> list[str]:
    """Write every table but the latents; returns their paths. `closer`: fingerprints of the signals of closer looks."""
    policy = policy_hash(recipe.rules, max_clips=recipe.clips.max_clips)
    verdicts, clips = curated.verdicts, curated.clips
    tables = {
        "videos": to_table([_video(curated, source, recipe.licence) for source in curated.sources], Video),
        "clips": clips.rows.select(Clip.SCHEMA.names),
        f"decisions/{policy}": verdicts.to_table(clips.clip_ids),
        **_given(curated),
        **{f"captions/{name}": table for name, table in curated.captioned.captions.items()},
        "duplicates": to_table(curated.duplicates, Duplicate),
        "rejected": to_table(_rejected(curated), Rejected),
    }
    paths = [path for folder, table in tables.items() for path in _write(out, folder, table)]
    for signal in (CLIP, *signal_scores(), *CLOSER_SCORES):
        table = _signal_table(curated, signal, closer.get(signal, assessed.key))
        paths += _write(out, f"signals/{signal}", table)
    if curated.labelled:
        paths += _write(out, f"signals/{LABELS}", curated.labelled.table(clips.clip_ids))
    return sorted([*paths, *_write_streams(out, curated, assessed, closer)])


def _given(curated: Curated) -> dict[str, pa.Table]:
    """The captions that manifests gave, of the kept clips; no table where they gave none."""
    if not curated.metadata:
        return {}
    kept = curated.clips.rows.select(["clip_id", "video_id"]).filter(pa.array(curated.verdicts.kept))
    clips = zip(kept.column("clip_id").to_pylist(), kept.column("video_id").to_pylist(), strict=True)
    table = given.given_captions(list(clips), curated.metadata)
    return {f"captions/{given.MODEL}": table} if len(table) else {}


def part(number: int) -> str:
    """Name of the file that holds the n-th part of a table."""
    return f"part-{number:05d}.parquet"


def _write(out: Storage, folder: str, table: pa.Table) -> Iterator[str]:
    for number, first in enumerate(range(0, max(1, len(table)), ROWS_PER_PART)):
        path = f"{folder}/{part(number)}"
        out.write_table(path, table.slice(first, ROWS_PER_PART))
        yield path


def _write_streams(out: Storage, curated: Curated, assessed: Assessed, closer: Mapping[str, str]) -> Iterator[str]:
    """Thumbnails and CPU times, a part after the other: they are never in memory as a whole."""
    columns = ("clip_id", THUMBNAIL, *TIMINGS)
    first, number = 0, 0
    for table in assessed.rows(list(curated.facts), columns, at_once=PICTURES_PER_PART):
        spent = {
            f"{signal}_milliseconds": curated.looked[signal].milliseconds[first : first + len(table)]
            for signal in closer
        }
        if curated.labelled:
            spent[f"{LABELS}_milliseconds"] = curated.labelled.milliseconds[first : first + len(table)]
        timings = table.select(["clip_id", *TIMINGS])
        for name, values in spent.items():
            timings = timings.append_column(name, pa.array(values, from_pandas=True))
        thumbnails = table.select(["clip_id", THUMBNAIL]).rename_columns(["clip_id", "jpeg"])
        # Small row groups, so that a few pictures can be read without the others.
        out.write_table(f"thumbnails/{part(number)}", thumbnails, row_group_size=_PICTURES_PER_GROUP)
        out.write_table(f"timings/{part(number)}", timings)
        yield from (f"{folder}/{part(number)}" for folder in ("thumbnails", "timings"))
        first, number = first + len(table), number + 1


def _signal_table(curated: Curated, signal: str, fingerprint: str) -> pa.Table:
    """The scores of a signal, null where it gave none; `error` says why."""
    clips = curated.clips
    names = sorted({CLIP: CLIP_SCORES, **signal_scores(), **CLOSER_SCORES}[signal])
    looked = curated.looked.get(signal)
    scores = looked.scores if looked else clips.scores
    why = looked.absent if looked else _constant("", len(clips))
    return pa.table(
        {
            "clip_id": clips.clip_ids,
            **{name: pa.array(scores[name], from_pandas=True) for name in names},
            "fingerprint": _constant(fingerprint, len(clips)),
            "status": pc.if_else(pc.equal(why, ""), "ok", "absent"),
            "error": why,
        }
    )


def _constant(text: str, count: int) -> pa.Array:
    return pa.array([text]).take(pa.array(np.zeros(count, np.int8)))


def _video(curated: Curated, source: Source, licence: str) -> Video:
    facts = curated.facts.get(source.video_id)
    header = facts.header if facts else Header("", "", 0.0, 0.0, 0, 0, 0, 1)
    status, reason, detail = fate(curated, source)
    return Video(
        video_id=source.video_id,
        uri=source.uri,
        bytes=source.bytes,
        container=header.container,
        codec=header.codec,
        fps=header.fps,
        duration_seconds=header.duration_seconds,
        width=header.width,
        height=header.height,
        licence=source.licence or licence,
        status=status,
        reason=reason,
        detail=detail,
        metadata=source.metadata,
    )


def _rejected(curated: Curated) -> list[Rejected]:
    """Sources that gave no clips (failed, doubled) and clips that could not be encoded."""
    rows = []
    for source in curated.sources:
        status, reason, detail = fate(curated, source)
        stage = "ingest" if source.duplicate_of or source.reason else "analyse"
        if status != "ok":
            rows.append(Rejected(source.video_id, "", source.uri, stage, reason, detail, failed=status == "failed"))
    uris = {source.video_id: source.uri for source in reversed(curated.sources)}
    lost = curated.clips.rows.select(["clip_id", "video_id"]).filter(pa.array(curated.failed)).to_pylist()
    for row in lost:
        outcome = curated.failed_clips[row["clip_id"]]
        uri, reason, detail = uris[row["video_id"]], outcome.reason, outcome.detail
        stage = outcome.stage or "encode"
        rows.append(Rejected(row["video_id"], row["clip_id"], uri, stage, reason, detail, failed=True))
    return rows
