"""Chosen clips and a label file become what the page asks for: the next clip, its pictures, progress, undo."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from data_pipeline.label.choose import choose, strip
from data_pipeline.label.labels import GOOD, Label, LabelFile
from data_pipeline.policy import Rule, load_policy
from data_pipeline.stored import read, read_clips, read_manifest
from groundwork.errors import UsageError
from groundwork.storage import Storage

_KEYS = "123456789acdefhijklmnopqrtvwxyz"
"""Keys of the reasons, in their order; g is good, s skips, u takes back, b goes on."""


class Session:
    """One labelling session. Safe to call from several threads."""

    def __init__(self, out: Storage, *, name: str, count: int, rules_from: str = "") -> None:
        self._out, self._lock = out, threading.RLock()
        self._manifest = read_manifest(out)
        self.rules = policy_rules(self._manifest, rules_from)
        if len(self.rules) > len(_KEYS):
            raise UsageError(f"The policy has {len(self.rules)} reasons, keys are there for {len(_KEYS)}.")
        clips = read_clips(out, self._manifest, scores={"bucket_frames", *(r.score for r in self.rules.values())})
        self._file = LabelFile(out, name)
        self._scores = clips
        self._rows = {row["clip_id"]: row for row in read(out, self._manifest, "clips").to_pylist()}
        self._chosen = choose(clips, self.rules, count=count)
        self._skipped: list[str] = []

    def state(self) -> dict[str, Any]:
        """What the page shows: keys, progress, and the clip to judge now (None: all done)."""
        with self._lock:
            labelled = {row.clip_id for row in self._file.rows}
            left = [clip_id for clip_id in self._chosen if clip_id not in labelled]
            waiting = [clip_id for clip_id in left if clip_id not in self._skipped]
            keys = [{"key": key, "label": reason} for key, reason in zip(_KEYS, self.rules, strict=False)]
            return {
                "dataset": self._manifest["name"],
                "file": self._file.path,
                "keys": [{"key": "g", "label": GOOD}, *keys],
                "done": len(self._chosen) - len(left),
                "skipped": len(left) - len(waiting),
                "total": len(self._chosen),
                "clip": self._facts(waiting[0]) if waiting else None,
            }

    def put(self, clip_id: str, labels: Sequence[str]) -> dict[str, Any]:
        """Label a chosen clip; no labels: skip it for now. Raises ValueError for an unknown clip or label."""
        with self._lock:
            unknown = set(labels) - {GOOD, *self.rules}
            if clip_id not in self._chosen or unknown or (GOOD in labels and len(labels) > 1):
                raise ValueError(f"cannot label {clip_id!r} as {list(labels)}")
            if labels:
                self._file.put(Label(clip_id, tuple(labels)))
            else:
                self._skipped.append(clip_id)
            return self.state()

    def undo(self) -> dict[str, Any]:
        """Take back the last label, so that its clip comes again."""
        with self._lock:
            last = self._file.undo()
            if last is not None and last.clip_id in self._chosen:
                self._chosen.remove(last.clip_id)
                self._chosen.insert(0, last.clip_id)
                self._skipped = [clip_id for clip_id in self._skipped if clip_id != last.clip_id]
            return self.state()

    @lru_cache(maxsize=64)  # noqa: B019  one session per process, and it lives as long
    def pictures(self, clip_id: str) -> list[bytes]:
        """The clip's thumbnails as JPEG: every half second where the measurements lie there, else its middle one."""
        row = self._rows[clip_id]
        path = f"work/analysis/{self._manifest['code']['analyse']}/{row['video_id']}.parquet"
        found = []
        if self._out.exists(path):
            frames = self._frames(path)
            found = strip(frames, start_pts=row["start_pts"], stop_pts=row["stop_pts"])
        return found or [self._thumbnail(clip_id)]

    def _thumbnail(self, clip_id: str) -> bytes:
        for path in sorted(path for path in self._manifest["files"] if path.startswith("thumbnails/")):
            table = self._out.read_table(path)
            row = table.filter(pc.equal(table.column("clip_id"), clip_id))
            if len(row):
                return bytes(row.column("jpeg")[0].as_py())
        raise StorageError(f"{self._out.uri} holds no thumbnail of clip {clip_id}.", "Run it again.")

    @lru_cache(maxsize=8)  # noqa: B019  one session per process, and it lives as long
    def _frames(self, path: str) -> pa.Table:
        return self._out.read_table(path, columns=("pts", "thumbnail"))

    def _facts(self, clip_id: str) -> dict[str, Any]:
        row = self._rows[clip_id]
        index = self._scores.clip_ids.index(clip_id).as_py()
        scores = {rule.score: float(self._scores.scores[rule.score][index]) for rule in self.rules.values()}
        return {
            "clip_id": clip_id,
            "seconds": [row["start_seconds"], row["stop_seconds"]],
            "size": f"{row['width']}x{row['height']}",
            "pictures": len(self.pictures(clip_id)),
            "scores": {name: round(value, 4) if value == value else None for name, value in scores.items()},
        }


def policy_rules(manifest: Mapping[str, Any], rules_from: str = "") -> dict[str, Rule]:
    """The rules of a policy, or of the dataset's own when none is named."""
    if rules_from:
        return load_policy(rules_from).rules
    own = manifest.get("policy", {}).get("rules", [])
    return {row["reason"]: Rule(**{key: value for key, value in row.items() if key != "reason"}) for row in own}
