"""The tables of a dataset become its counts again, after rows were taken out of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data_pipeline.analysis import Header
from data_pipeline.dataset import video_counts
from data_pipeline.failures import FORGOTTEN
from groundwork.records import Clip, Decision, Rejected, Video, from_table
from groundwork.storage import Storage


def recount(out: Storage, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What `summarise` says, from the tables that stand."""

    def rows(folder: str, kind: Any) -> list[Any]:
        return [row for path in manifest["files"] if path.startswith(f"{folder}/") for row in _rows(out, path, kind)]

    failed = {row.clip_id for row in rows("rejected", Rejected) if row.failed and row.clip_id}
    reasons = {row.clip_id: row.reason for row in rows("decisions", Decision)}
    seconds = {row.clip_id: row.stop_seconds - row.start_seconds for row in rows("clips", Clip)}
    states = {key: "failed" if key in failed else "rejected" if reasons[key] else "kept" for key in seconds}
    videos = rows("videos", Video)
    read_hours = sum(video.duration_seconds for video in videos if video.status == "ok") / 3600
    hours = {
        state: round(sum(seconds[key] for key, value in states.items() if value == state) / 3600, 9)
        for state in ("kept", "rejected", "failed")
    }
    lost = Counter(reasons[key] for key, state in states.items() if state == "rejected")
    return {
        "videos": video_counts(Counter(video.status for video in videos)),
        "clips": {
            "found": len(seconds),
            "kept": sum(state == "kept" for state in states.values()),
            "rejected": dict(sorted(lost.items())),
            "failed": len(failed & set(seconds)),
        },
        "hours": {"read": round(read_hours, 9), "found": round(sum(hours.values()), 9), **hours},
    }


def forgotten_video(video: Video, detail: str) -> Video:
    """The row of a source that is forgotten: nothing measured stays; `detail` is its tombstone."""
    status, reason, detail = (
        (video.status, video.reason, video.detail) if video.status == "duplicate" else (FORGOTTEN, FORGOTTEN, detail)
    )
    empty = Header("", "", 0.0, 0.0, 0, 0, 0, 1)
    return replace(
        video,
        container=empty.container,
        codec=empty.codec,
        fps=empty.fps,
        duration_seconds=empty.duration_seconds,
        width=empty.width,
        height=empty.height,
        status=status,
        reason=reason,
        detail=detail,
    )


def _rows(out: Storage, path: str, kind: Any) -> list[Any]:
    found: list[Any] = from_table(out.read_table(path), kind)
    return found
