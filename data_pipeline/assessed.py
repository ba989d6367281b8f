"""Assessed videos on storage, one table each, become columns in memory, or stream through it a few rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from data_pipeline import assess as assess_step
from data_pipeline import buckets, clips, dissolves, shots
from data_pipeline.analysis import Analysis, Header
from data_pipeline.assess import BUCKET, assess_settings, measured_scores
from data_pipeline.duplicates import hashes
from data_pipeline.fingerprint import stage_fingerprint
from data_pipeline.recipe import CurateRecipe
from data_pipeline.signals import transition
from groundwork.records import Clip
from groundwork.storage import Storage

_FOLDER, _META = "work/assessed", b"video"
_WINDOW, _THREADS, _ROWS_AT_ONCE = 64, 4, 20_000


@dataclass(frozen=True)
class VideoFacts:
    """What is known of an assessed video as a whole. `damage`: where it is damaged; empty for a sound one."""

    header: Header
    damage: str


@dataclass(frozen=True)
class Assessed:
    """The tables of one key: what measurements, settings of shots, clips, buckets and copies, and code give."""

    out: Storage
    key: str

    @property
    def folder(self) -> str:
        """All of them lie below it."""
        return f"{_FOLDER}/{self.key}"

    def path(self, video_id: str) -> str:
        """Where the clips of a video are kept."""
        return f"{self.folder}/{video_id}.parquet"

    def standing(self) -> frozenset[str]:
        """The videos that are assessed already."""
        return frozenset(Path(path).stem for path in self.out.list(self.folder, suffix=".parquet"))

    def write(self, video_id: str, table: pa.Table, analysis: Analysis) -> None:
        """Keep what `assess` made of a video."""
        meta = {"header": asdict(analysis.header), "damage": analysis.damage_detail()}
        self.out.write_table(self.path(video_id), table.replace_schema_metadata({_META: json.dumps(meta)}))

    def drop_others(self) -> None:
        """Remove the tables of all other keys: they are made again without decoding anything."""
        others = {path.split("/")[2] for path in self.out.list(_FOLDER, suffix=".parquet")} - {self.key}
        for key in sorted(others):
            self.out.delete_tree(f"{_FOLDER}/{key}")

    def videos(self, video_ids: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of one video after the other, in this order; a few are read at a time."""
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(video_ids), _WINDOW):
                paths = [self.path(video_id) for video_id in video_ids[first : first + _WINDOW]]
                yield from pool.map(lambda path: self.out.read_table(path, columns=columns), paths)

    def rows(self, video_ids: Sequence[str], columns: Sequence[str], *, at_once: int) -> Iterator[pa.Table]:
        """The same as tables of `at_once` rows each; only the last may have fewer."""
        return _batches(self.videos(video_ids, columns), at_once=at_once)

    def read(self, video_ids: Sequence[str], columns: Sequence[str], *, only: pa.Array | None = None) -> pa.Table:
        """The same as one table; `only`: of the clips with these ids."""
        tables = self.rows(video_ids, columns, at_once=_ROWS_AT_ONCE)
        if only is not None:
            tables = (table.filter(pc.is_in(table.column("clip_id"), value_set=only)) for table in tables)
        return _whole(tables, columns)


def assess_fingerprint(recipe: CurateRecipe, *, measurements: str) -> str:
    """Key of what `assess` makes: its code and settings, and the fingerprint of the measurements it reads."""
    code: tuple[ModuleType, ...] = (assess_step, buckets, clips, dissolves, shots, transition, hashes)
    return stage_fingerprint(code, [measurements, assess_settings(recipe)])


@dataclass(frozen=True)
class ClipTable:
    """n clips as columns, in the order of their videos. `rows`: the columns of `Clip`, and `bucket` (null: too short
    for any); `scores` by name, NaN: no such score. Thumbnails, hashes and costs stay on storage: see `Assessed`."""

    rows: pa.Table
    scores: Mapping[str, Float[np.ndarray, " n"]]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clip_ids(self) -> pa.Array:
        return self.rows.column("clip_id").combine_chunks()

    @property
    def seconds(self) -> Float[np.ndarray, " n"]:
        """How long each clip is."""
        seconds: Float[np.ndarray, " n"] = (
            self.rows.column("stop_seconds").to_numpy() - self.rows.column("start_seconds").to_numpy()
        )
        return seconds

    @property
    def has_bucket(self) -> Bool[np.ndarray, " n"]:
        """Which are long enough for a bucket."""
        long_enough: Bool[np.ndarray, " n"] = self.rows.column(BUCKET).is_valid().to_numpy()
        return long_enough

    def where(self, chosen: Bool[np.ndarray, " n"]) -> ClipTable:
        """Some of the clips."""
        scores = {name: values[chosen] for name, values in self.scores.items()}
        return ClipTable(self.rows.filter(pa.array(chosen)), scores)


def read_clips(
    assessed: Assessed, video_ids: Sequence[str], *, damaged: bool = True
) -> tuple[ClipTable, dict[str, VideoFacts]]:
    """The clips of the videos, in this order, and the facts of all of them by video_id; unless `damaged`, without the
    clips of damaged videos."""
    names = sorted(measured_scores())
    columns = [*Clip.SCHEMA.names, BUCKET, *names]
    facts: dict[str, VideoFacts] = {}

    def chosen() -> Iterator[pa.Table]:
        for video_id, table in zip(video_ids, assessed.videos(video_ids, columns), strict=True):
            facts[video_id] = _facts(table.schema)
            if damaged or not facts[video_id].damage:
                yield table

    table = _whole(_batches(chosen(), at_once=_ROWS_AT_ONCE), columns)
    scores = {name: table.column(name).to_numpy() for name in names}
    return ClipTable(table.select([*Clip.SCHEMA.names, BUCKET]), scores), facts


def _batches(tables: Iterable[pa.Table], *, at_once: int) -> Iterator[pa.Table]:
    """The same rows in tables of `at_once` rows each, the last one apart; each in one piece."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        waiting.append(table.replace_schema_metadata(None))
        count += len(table)
        while count >= at_once:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, at_once).combine_chunks()
            waiting, count = [joined.slice(at_once)], count - at_once
    if count:
        yield pa.concat_tables(waiting).combine_chunks()


def _whole(tables: Iterable[pa.Table], columns: Sequence[str]) -> pa.Table:
    empty = pa.schema([assess_step.schema().field(name) for name in columns]).empty_table()
    return pa.concat_tables([empty, *tables]).combine_chunks()


def _facts(schema: pa.Schema) -> VideoFacts:
    said = json.loads(schema.metadata[_META])
    return VideoFacts(Header(**said["header"]), said["damage"])
