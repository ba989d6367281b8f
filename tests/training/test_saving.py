"""Saves in the background: training goes on meanwhile, and what is reported is durable."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from groundwork.errors import StorageError
from groundwork.storage import open_storage
from training import checkpoint
from training.saving import Saver, Snapshot

Told = list[dict[str, Any]]


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"value/weight": torch.full((3,), float(step))}, {"recipe_hash": "x"})


def test_a_checkpoint_is_reported_once_it_is_durable_and_training_does_not_wait(alone: None, tmp_path: Path) -> None:
    run, told, disk_is_slow = open_storage(tmp_path), Told(), threading.Event()
    with Saver(run, keep=2, patience=60, report=told.append) as saver:
        saver.begin(snapshot(4), records=lambda: (disk_is_slow.wait(60), None)[1], metrics={"step": 4})
        assert saver.is_pending
        assert not saver.is_done
        assert checkpoint.newest_complete(run) is None
        disk_is_slow.set()
        saver.begin(snapshot(8), records=lambda: None, metrics={"step": 8})
        assert told == [{"step": 4}]
        saver.settle()
        assert not saver.is_pending
    assert told == [{"step": 4}, {"step": 8}]
    found = checkpoint.newest_complete(run)
    assert found is not None
    assert found.step == 8
    assert not list(tmp_path.rglob("*.partial"))


def test_a_save_that_fails_says_so_before_the_next_one_and_does_not_count(alone: None, tmp_path: Path) -> None:
    def full() -> None:
        raise StorageError("Cannot write metrics.parquet", "Free space.")

    run, told = open_storage(tmp_path), Told()
    with Saver(run, keep=2, patience=60, report=told.append) as saver:
        saver.begin(snapshot(4), records=full, metrics={"step": 4})
        with pytest.raises(StorageError, match="Cannot write metrics") as caught:
            saver.begin(snapshot(8), records=lambda: None, metrics={"step": 8})
        assert caught.value.hint == "Free space."
    assert told == []
    assert checkpoint.newest_complete(run) is None
