"""What a person said of each clip, kept at once in labels/<name>.jsonl of the dataset: one line per clip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from groundwork.errors import InputError, StorageError, UsageError
from groundwork.storage import Storage, open_storage

GOOD = "good"
"""The label of a clip with which nothing is wrong."""


@dataclass(frozen=True)
class Label:
    """A clip and all that is wrong with it, as reasons of the policy; ("good",): nothing."""

    clip_id: str
    labels: tuple[str, ...]


class LabelFile:
    """The labels of one person or session; every change is on storage before the call returns."""

    def __init__(self, out: Storage, name: str) -> None:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UsageError(f"--name {name!r} must be a plain file name.", "Letters, digits, '-', '_' and '.'.")
        self._out = out
        self.path = f"labels/{name}.jsonl"
        self.rows: list[Label] = read_rows(out, self.path) if out.exists(self.path) else []

    def put(self, label: Label) -> None:
        """Add a label; an earlier one of the same clip gives way."""
        self.rows = [row for row in self.rows if row.clip_id != label.clip_id] + [label]
        self._save()

    def undo(self) -> Label | None:
        """Take back the last label; None when there is none."""
        if not self.rows:
            return None
        last = self.rows.pop()
        self._save()
        return last

    def _save(self) -> None:
        self._out.write_bytes(self.path, to_lines(self.rows).encode())


def to_lines(rows: Iterable[Label]) -> str:
    """Labels as JSON lines."""
    return "".join(json.dumps(asdict(row)) + "\n" for row in rows)


def read_labels(dataset: Storage, given: str) -> list[Label]:
    """The labels named `given` of the dataset, or those of a file anywhere (JSON lines). Raises InputError."""
    inside = f"labels/{given}.jsonl"
    if re.fullmatch(r"[\w.-]+", given) and dataset.exists(inside):
        return read_rows(dataset, inside)
    folder, _, name = given.rpartition("/")
    try:
        return read_rows(open_storage(folder or "."), name)
    except StorageError as error:
        raise InputError(f"No labels {given!r}.", "Name a session of 'curate label', or a file.") from error


def read_rows(out: Storage, path: str) -> list[Label]:
    """A label file. Raises InputError that names the first line which is not a label."""
    rows = []
    for number, line in enumerate(out.read_bytes(path).decode().splitlines(), start=1):
        if line.strip():
            rows.append(_row(line, where=f"{out.uri}/{path}, line {number}"))
    return rows


def _row(line: str, *, where: str) -> Label:
    try:
        row: dict[str, Any] = json.loads(line)
        return Label(str(row["clip_id"]), tuple(str(label) for label in row["labels"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: not a label.", 'Each line is {"clip_id": "…", "labels": ["…"]}.') from error
