"""A dataset's tables become what its report shows: columns of all clips, and whole rows of the few that are shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int

from data_pipeline.captions.rules import REJECTED as UNFIT
from data_pipeline.stored import align, numbers, read, read_clips
from groundwork.errors import StorageError
from groundwork.records import Duplicate, Rejected, Video, from_table
from groundwork.storage import Storage

KEPT, REJECTED, FAILED = "kept", "rejected", "failed"
_SHOWN_COLUMNS = ("clip_id", "start_seconds", "stop_seconds", "width", "height")


@dataclass(frozen=True)
class ShownClip:
    """A clip that is shown: its span in its video, size, what decided, what went wrong, caption and JPEG. `state`:
    kept, rejected or failed."""

    clip_id: str
    start_seconds: float
    stop_seconds: float
    width: int
    height: int
    state: str
    reason: str
    score_name: str
    score: float | None
    threshold: float | None
    detail: str
    caption: str
    thumbnail: bytes


@dataclass(frozen=True)
class Contents:
    """What stands in a dataset of n clips. `scores`: those that the policy asks for, NaN: none; `cpu_milliseconds` of
    the clip's share of the decode pass, `spent` the sums over all clips by signal; `failures` by clip_id."""

    dataset: Storage
    manifest: Mapping[str, Any]
    videos: Sequence[Video]
    clip_ids: pa.Array
    video_ids: pa.Array
    seconds: Float[np.ndarray, " n"]
    kept: Bool[np.ndarray, " n"]
    failed: Bool[np.ndarray, " n"]
    reasons: pa.Array
    scores: Mapping[str, Float[np.ndarray, " n"]]
    cpu_milliseconds: Float[np.ndarray, " n"]
    spent: Mapping[str, float]
    duplicates: pa.Table
    failures: Mapping[str, Rejected]

    @property
    def rules(self) -> Sequence[Mapping[str, Any]]:
        """The rules of the policy, in their order."""
        found: Sequence[Mapping[str, Any]] = self.manifest["policy"]["rules"]
        return found

    def in_state(self, state: str) -> Bool[np.ndarray, " n"]:
        """The clips that are kept, rejected or failed."""
        masks: dict[str, Bool[np.ndarray, " n"]] = {KEPT: self.kept, REJECTED: ~self.kept & ~self.failed}
        return masks.get(state, self.failed)

    def shown(self, which: Iterable[int]) -> list[ShownClip]:
        """Some clips, by their numbers, in this order; no more of the tables is read than holds them."""
        chosen = np.fromiter(which, np.int64)
        order = np.unique(chosen)
        names = self.clip_ids.take(pa.array(order))
        tables = [
            _rows(self.dataset, self.manifest, "clips", order, _SHOWN_COLUMNS),
            _rows(self.dataset, self.manifest, "decisions", order, ("reason", "score_name", "score", "threshold")),
            _rows(self.dataset, self.manifest, "thumbnails", order, ("clip_id", "jpeg")),
        ]
        if any(not table.column("clip_id").combine_chunks().equals(names) for table in (tables[0], tables[2])):
            raise StorageError(f"The tables of {self.dataset.uri} do not name the same clips.", "Run it again.")
        captions = self._captions(names) if self.kept[order].any() else {}
        found = {}
        for number, clip, decision, picture in zip(order.tolist(), *(t.to_pylist() for t in tables), strict=True):
            lost = self.failures.get(clip["clip_id"])
            state = FAILED if lost else KEPT if self.kept[number] else REJECTED
            detail = f"{lost.reason}: {lost.detail}" if lost else ""
            caption = captions.get(clip["clip_id"], "")
            found[number] = ShownClip(
                **clip, **decision, state=state, detail=detail, caption=caption, thumbnail=picture["jpeg"]
            )
        return [found[number] for number in chosen.tolist()]

    def _captions(self, clip_ids: pa.Array) -> dict[str, str]:
        """The captions that are trained on: the first that stands, in the order of the recipe's captioners."""
        found: dict[str, str] = {}
        folders = [f"captions/{one['name']}" for one in self.manifest.get("captions", [])]
        for path in [path for folder in folders or ["captions"] for path in _paths(self.manifest, folder)]:
            table = self.dataset.read_table(path, columns=("clip_id", "text", "status"))
            for row in table.filter(pc.is_in(table.column("clip_id"), value_set=clip_ids)).to_pylist():
                if row.get("status") != UNFIT:
                    found.setdefault(row["clip_id"], row["text"])
        return found


def read_contents(dataset: Storage, manifest: Mapping[str, Any]) -> Contents:
    """Read the tables the manifest names. Raises StorageError when one is missing."""
    clips = read_clips(dataset, manifest, scores={rule["score"] for rule in manifest["policy"]["rules"]})
    rejected = from_table(read(dataset, manifest, "rejected"), Rejected)
    failures = {row.clip_id: row for row in rejected if row.clip_id}
    lost = pa.array(sorted(failures), pa.string())
    failed = pc.is_in(clips.clip_ids, value_set=lost).to_numpy(zero_copy_only=False)
    cpu, spent = _costs(dataset, manifest, clips.clip_ids)
    return Contents(
        dataset=dataset,
        manifest=manifest,
        videos=from_table(read(dataset, manifest, "videos"), Video),
        clip_ids=clips.clip_ids,
        video_ids=clips.video_ids,
        seconds=clips.seconds,
        kept=clips.kept & ~failed,
        failed=failed,
        reasons=clips.reasons,
        scores=clips.scores,
        cpu_milliseconds=cpu,
        spent=spent,
        duplicates=read(dataset, manifest, "duplicates") if _paths(manifest, "duplicates") else _NO_COPIES,
        failures=failures,
    )


_NO_COPIES = Duplicate.SCHEMA.empty_table()


def _paths(manifest: Mapping[str, Any], folder: str) -> list[str]:
    return sorted(path for path in manifest["files"] if path.startswith(f"{folder}/"))


def _costs(
    dataset: Storage, manifest: Mapping[str, Any], clip_ids: pa.Array
) -> tuple[Float[np.ndarray, " n"], dict[str, float]]:
    if not _paths(manifest, "timings"):
        return np.zeros(len(clip_ids)), {}
    table = read(dataset, manifest, "timings")
    spent = {
        name.removesuffix("_milliseconds"): float(np.nansum(numbers(table.column(name))))
        for name in table.column_names
        if name != "clip_id"
    }
    cpu = numbers(align(table.select(["clip_id", "cpu_milliseconds"]), clip_ids).column("cpu_milliseconds"))
    return np.nan_to_num(cpu), spent


def _rows(
    dataset: Storage,
    manifest: Mapping[str, Any],
    folder: str,
    chosen: Int[np.ndarray, " m"],
    columns: Sequence[str],
) -> pa.Table:
    """The rows of a table with these numbers, ascending: of its files no more is read than their row groups."""
    return pa.concat_tables(_groups(dataset, _paths(manifest, folder), chosen, list(columns)))


def _groups(
    dataset: Storage, paths: Sequence[str], chosen: Int[np.ndarray, " m"], columns: list[str]
) -> Iterator[pa.Table]:
    first = 0
    for path in paths:
        with dataset.open_table(path) as file:
            yield file.schema_arrow.empty_table().select(columns).replace_schema_metadata(None)
            for group in range(file.num_row_groups):
                stop = first + file.metadata.row_group(group).num_rows
                inside = chosen[(chosen >= first) & (chosen < stop)] - first
                if len(inside):
                    found = file.read_row_group(group, columns=columns).take(pa.array(inside))
                    yield found.replace_schema_metadata(None)
                first = stop
