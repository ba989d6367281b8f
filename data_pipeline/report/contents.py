"""A dataset's tables become what its report shows: one plain row per clip."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from data_pipeline.captions.rules import REJECTED
from groundwork.records import Caption, Clip, Decision, Duplicate, Rejected, Video, from_table
from groundwork.storage import Storage

_NOT_SCORES = {"clip_id", "fingerprint", "status", "error"}


@dataclass(frozen=True)
class ShownClip:
    """A clip with all that is known of it. `state`: kept, rejected or failed; `milliseconds`: CPU time by signal, "cpu"
    that of the whole pass."""

    clip: Clip
    state: str
    decision: Decision
    detail: str
    caption: str
    thumbnail: bytes
    scores: Mapping[str, float | None]
    milliseconds: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return self.clip.stop_seconds - self.clip.start_seconds


@dataclass(frozen=True)
class Contents:
    """What stands in a dataset."""

    manifest: Mapping[str, Any]
    videos: list[Video]
    clips: list[ShownClip]
    duplicates: list[Duplicate]

    def named(self, state: str) -> list[ShownClip]:
        """The clips in that state."""
        return [item for item in self.clips if item.state == state]


def _first_captions(manifest: Mapping[str, Any], rows: Callable[[str, Any], list[Any]]) -> dict[str, str]:
    """Of each clip the caption that is trained on: the first that stands, in the order of the recipe's captioners."""
    found: dict[str, str] = {}
    folders = [f"captions/{one['name']}" for one in manifest.get("captions", [])]
    for folder in folders or ["captions"]:
        for row in rows(folder, Caption):
            if row.status != REJECTED:
                found.setdefault(row.clip_id, row.text)
    return found


def _is_table(path: str) -> bool:
    return path.endswith(".parquet") and not path.startswith(("latents/", "texts/"))


def read_contents(dataset: Storage, manifest: Mapping[str, Any]) -> Contents:
    """Read the tables the manifest names. Raises StorageError when one is missing."""
    tables = {path: dataset.read_table(path) for path in manifest["files"] if _is_table(path)}

    def rows(folder: str, kind: Any) -> list[Any]:
        return [
            row for path, table in tables.items() if path.startswith(f"{folder}/") for row in from_table(table, kind)
        ]

    decisions = {row.clip_id: row for row in rows("decisions", Decision)}
    captions = _first_captions(manifest, rows)
    failures = {row.clip_id: row for row in rows("rejected", Rejected) if row.clip_id}
    scores: dict[str, dict[str, float | None]] = {}
    spent: dict[str, dict[str, float]] = {}
    pictures: dict[str, bytes] = {}
    for path, table in tables.items():
        for row in table.to_pylist() if path.startswith(("signals/", "thumbnails/", "timings/")) else ():
            if "jpeg" in row:
                pictures[row["clip_id"]] = row["jpeg"]
            elif path.startswith("timings/"):
                spent[row["clip_id"]] = {
                    name.removesuffix("_milliseconds"): value for name, value in row.items() if name != "clip_id"
                }
            else:
                named = {name: value for name, value in row.items() if name not in _NOT_SCORES}
                scores.setdefault(row["clip_id"], {}).update(named)
    shown = []
    for clip in rows("clips", Clip):
        decision, failure = decisions[clip.clip_id], failures.get(clip.clip_id)
        state = "failed" if failure else "kept" if decision.kept else "rejected"
        detail = f"{failure.reason}: {failure.detail}" if failure else ""
        shown.append(
            ShownClip(
                clip,
                state,
                decision,
                detail,
                captions.get(clip.clip_id, ""),
                pictures[clip.clip_id],
                scores[clip.clip_id],
                spent.get(clip.clip_id, {}),
            )
        )
    return Contents(manifest, rows("videos", Video), shown, rows("duplicates", Duplicate))
