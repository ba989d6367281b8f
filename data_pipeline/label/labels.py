"""What a person said of each clip, kept at once in labels/<name>.jsonl of the dataset: one line per clip."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from groundwork.errors import InputError, UsageError
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
    return read_rows(*label_place(dataset, given))


def label_place(dataset: Storage, given: str) -> tuple[Storage, str]:
    """Folder and name of the labels named `given` of the dataset, or of a file anywhere. Raises InputError."""
    inside = f"labels/{given}.jsonl"
    if re.fullmatch(r"[\w.-]+", given) and dataset.exists(inside):
        return dataset, inside
    folder, _, name = given.rpartition("/")
    place = open_storage(folder or ".")
    if not name or not place.exists(name):
        raise InputError(f"No labels {given!r}.", "Name a session of 'curate label', or a file.")
    return place, name


def read_rows(out: Storage, path: str) -> list[Label]:
    """A label file of JSON lines. Raises InputError that names the first line which is not a label."""
    return parse_rows(out.read_bytes(path), where=f"{out.uri}/{path}")


def parse_rows(data: bytes, *, where: str) -> list[Label]:
    """JSON lines as labels; `where` the file is, for the InputError that names the first line which is not one."""
    lines = enumerate(data.decode(errors="replace").splitlines(), start=1)
    return [_row(line, where=f"{where}, line {number}") for number, line in lines if line.strip()]


def _row(line: str, *, where: str) -> Label:
    try:
        row: dict[str, Any] = json.loads(line)
        return Label(str(row["clip_id"]), tuple(str(label) for label in row["labels"]))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: not a label.", 'Each line is {"clip_id": "…", "labels": ["…"]}.') from error
