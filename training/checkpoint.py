"""A training state becomes a folder of safetensors that counts only once its `complete` marker stands."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundwork.errors import StorageError
from groundwork.storage import Storage
from groundwork.telemetry import get_logger

MARKER = "complete"
_FOLDER = "checkpoints/step-{step:06d}"
_PATTERN = re.compile(r"^checkpoints/(step-(\d+))/")


@dataclass(frozen=True)
class PartFile:
    """One worker's file of a checkpoint."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: the state after `step` updates."""

    folder: str
    step: int
    facts: Mapping[str, Any]
    """What the run said about itself: recipe hash, dataset, world size."""
    files: tuple[PartFile, ...]


def folder_of(step: int) -> str:
    """Where the state after `step` updates lies in a run."""
    return _FOLDER.format(step=step)


def write_part(run: Storage, tensors: Mapping[str, Tensor], *, step: int, rank: int, world: int) -> PartFile:
    """Write one worker's tensors. The checkpoint does not count before `mark_complete`."""
    name = f"part-{rank:02d}-of-{world:02d}.safetensors"
    data = safetensors.torch.save(dict(tensors))
    run.write_bytes(f"{folder_of(step)}/{name}", data)
    return PartFile(name=name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def mark_complete(run: Storage, files: list[PartFile], *, step: int, facts: Mapping[str, Any]) -> None:
    """The last write of a checkpoint: names every file with its size and hash."""
    listed = {file.name: {"bytes": file.bytes, "sha256": file.sha256} for file in files}
    run.write_json(f"{folder_of(step)}/{MARKER}", {"step": step, "files": listed, "facts": dict(facts)})


def newest_complete(run: Storage) -> Checkpoint | None:
    """The newest checkpoint whose marker stands and whose files have their sizes and hashes; damaged ones are named
    in the log and passed over."""
    for step in sorted(_steps(run), reverse=True):
        checkpoint = _read_marker(run, step)
        if checkpoint is None:
            continue
        off = [file.name for file in checkpoint.files if not _intact(run, checkpoint.folder, file)]
        if not off:
            return checkpoint
        get_logger("checkpoint").warning("%s is damaged (%s): passed over", checkpoint.folder, ", ".join(off))
    return None


def complete_steps(run: Storage) -> list[int]:
    """Steps whose checkpoints are marked as complete; their files are not looked at."""
    return sorted(
        int(match[2]) for path in run.list("checkpoints", suffix=f"/{MARKER}") if (match := _PATTERN.match(path))
    )


def complete_at(run: Storage, step: int) -> Checkpoint | None:
    """The checkpoint of a step where it is marked as complete; its files are not looked at."""
    return _read_marker(run, step)


def prune(run: Storage, *, keep: int, newest: int) -> None:
    """Remove all but the `keep` newest checkpoints up to step `newest`, and every one that is newer: it was not
    finished, or belongs to a future that is computed again."""
    steps = sorted(_steps(run))
    past = [step for step in steps if step <= newest]
    for step in [*past[:-keep], *(step for step in steps if step > newest)]:
        run.delete(f"{folder_of(step)}/{MARKER}")  # first: half a removal must not look whole
        run.delete_tree(folder_of(step))


@contextmanager
def opened(run: Storage, checkpoint: Checkpoint) -> Any:
    """A function from a tensor's name to the tensor, for the length of the block; only what is asked for is read."""
    with ExitStack() as stack:
        folder = stack.enter_context(run.local_path(checkpoint.folder))
        places: dict[str, Any] = {}
        for file in checkpoint.files:
            handle = stack.enter_context(safe_open(str(folder / file.name), framework="pt"))
            places |= dict.fromkeys(handle.keys(), handle)
        yield _reader(places, checkpoint.folder)


def _reader(places: Mapping[str, Any], folder: str) -> Callable[[str], Tensor]:
    def read(name: str) -> Tensor:
        try:
            tensor: Tensor = places[name].get_tensor(name)
        except (KeyError, SafetensorError) as error:
            raise StorageError(f"{folder} has no readable tensor {name!r}: {error}") from error
        return tensor

    return read


def _steps(run: Storage) -> set[int]:
    return {int(match[2]) for path in run.list("checkpoints") if (match := _PATTERN.match(path))}


def _read_marker(run: Storage, step: int) -> Checkpoint | None:
    folder = folder_of(step)
    try:
        marker = run.read_json(f"{folder}/{MARKER}") if run.exists(f"{folder}/{MARKER}") else None
    except StorageError:
        marker = None
    if not marker:
        return None
    files = tuple(PartFile(name, facts["bytes"], facts["sha256"]) for name, facts in sorted(marker["files"].items()))
    return Checkpoint(folder=folder, step=marker["step"], facts=marker["facts"], files=files)


def _intact(run: Storage, folder: str, file: PartFile) -> bool:
    path = f"{folder}/{file.name}"
    return run.exists(path) and run.size(path) == file.bytes and run.checksum(path) == file.sha256
