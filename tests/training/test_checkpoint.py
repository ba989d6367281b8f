"""A checkpoint counts when its marker stands and its files are whole; anything less is passed over."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage
from training import checkpoint


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return open_storage(tmp_path)


def save(run: Storage, step: int, *, complete: bool = True) -> None:
    parts = [
        checkpoint.write_part(run, {f"value/{name}": torch.full((3,), float(step))}, step=step, rank=rank, world=2)
        for rank, name in enumerate(("first", "second"))
    ]
    if complete:
        checkpoint.mark_complete(run, parts, step=step, facts={"recipe_hash": "x"})


def newest_step(run: Storage) -> int | None:
    found = checkpoint.newest_complete(run)
    return found.step if found is not None else None


def test_the_newest_complete_one_is_found_and_read_back(run: Storage) -> None:
    save(run, 5)
    save(run, 10)
    found = checkpoint.newest_complete(run)
    assert found is not None
    assert (found.step, found.facts["recipe_hash"]) == (10, "x")
    with checkpoint.opened(run, found) as read:
        assert read("value/second").tolist() == [10.0] * 3
        with pytest.raises(StorageError, match="no readable tensor 'value/third'"):
            read("value/third")


def test_an_empty_run_has_none(run: Storage) -> None:
    assert newest_step(run) is None


def test_one_without_a_marker_is_passed_over(run: Storage) -> None:
    save(run, 5)
    save(run, 10, complete=False)
    assert newest_step(run) == 5


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "torn marker"])
def test_a_damaged_one_is_passed_over(run: Storage, damage: str) -> None:
    save(run, 5)
    save(run, 10)
    part = Path(run.path("checkpoints/step-000010/part-01-of-02.safetensors"))
    if damage == "truncated":
        part.write_bytes(part.read_bytes()[:-2])
    elif damage == "changed":
        part.write_bytes(part.read_bytes()[:-1] + b"\x7f")
    elif damage == "missing":
        part.unlink()
    else:
        Path(run.path("checkpoints/step-000010/complete")).write_text('{"step": 10, "fi')
    assert newest_step(run) == 5


def test_pruning_keeps_the_newest_and_drops_what_lies_ahead(run: Storage) -> None:
    for step in (5, 10, 15, 20):
        save(run, step)
    save(run, 30, complete=False)
    checkpoint.prune(run, keep=2, newest=20)
    assert sorted(path.name for path in Path(run.path("checkpoints")).iterdir()) == ["step-000015", "step-000020"]
