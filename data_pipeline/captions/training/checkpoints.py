"""A checkpoint counts when its marker stands, which is written last and names every file; the rest is dropped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from groundwork.storage import Storage

FOLDER = "checkpoints"
MARKER = "complete.json"


def newest_complete(run: Storage) -> Path | None:
    """Folder of the newest whole checkpoint, None for none. Folders without their marker, or whose files are not those
    it names, are removed."""
    newest = None
    for folder in _folders(run):
        if _is_whole(folder):
            newest = folder
        else:
            shutil.rmtree(folder)
    return newest


def step_of(folder: Path) -> int:
    """Optimiser steps behind a checkpoint."""
    return int(folder.name.rpartition("-")[2])


def mark_complete(folder: Path) -> None:
    """Bring every file to disk, then write the marker with their sizes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    Storage(str(folder)).write_json(MARKER, {"bytes": sizes})


def _folders(run: Storage) -> list[Path]:
    found = Path(run.path(FOLDER)).glob("checkpoint-*")
    return sorted((path for path in found if path.is_dir()), key=step_of)


def _is_whole(folder: Path) -> bool:
    if not (folder / MARKER).is_file():
        return False
    sizes = Storage(str(folder)).read_json(MARKER)["bytes"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())
