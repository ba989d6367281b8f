"""Damaged rows: training goes on without them, says so, and does the same wherever it runs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from groundwork.errors import InputError
from groundwork.latents import LatentDataset, read_index
from groundwork.storage import open_storage
from training.clips import ClipReader
from training.metrics import StepMetrics, read_metrics
from training.quarantine import damaged_clips
from training.recipe import TrainRecipe
from training.worker import Job, run_worker

ALONE: dict[str, Any] = {"engine": {"kind": "ddp"}, "workers": {"count": 1}}


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def damage(dataset: Path, names: set[str]) -> None:
    """Overwrite the length that stands before the latent of these clips."""
    for clip in read_index(open_storage(dataset)):
        if clip.clip_id in names:
            with (dataset / clip.shard).open("r+b") as file:
                file.seek(clip.latent_at - 4)
                file.write(b"\xff\xff\xff\x7f")


def run(recipe: TrainRecipe, dataset: Path, out: Path) -> list[StepMetrics]:
    told: list[dict[str, Any]] = []
    run_worker(Job(recipe, datasets=(str(dataset),), out=str(out)), report=told.append)
    return read_metrics(open_storage(out))


def test_damaged_clips_are_left_out_and_named(
    alone: None, dataset: Path, recipe_with: Callable[..., TrainRecipe], tmp_path: Path
) -> None:
    stage = {"steps": 5, "tokens_per_pack": 60, "packs_per_step": 3, "learning_rate": 1e-3}
    recipe = recipe_with(stages=[stage], held_out={"clips": 1, "every_steps": 4}, **ALONE)
    whole = run(recipe, dataset, tmp_path / "whole")
    bad = Path(shutil.copytree(dataset, tmp_path / "bad"))
    damage(bad, {"clip0"})
    rows = run(recipe, bad, tmp_path / "left")
    assert damaged_clips(open_storage(tmp_path / "left")) == ["clip0"]
    assert "clip0" in (tmp_path / "left" / "quarantine" / "9x32x48" / "clip0.json").read_text()
    assert len(rows) == len(whole) == recipe.num_steps
    assert all(row.loss > 0 and row.loss == row.loss for row in rows)
    first = next(index for index, row in enumerate(rows) if row.damaged)
    assert [row.loss for row in rows[:first]] == [row.loss for row in whole[:first]]
    assert rows[first].loss != whole[first].loss
    assert sum(rows[first].stratum_clips) == rows[first].clips - rows[first].damaged
    again = run(recipe, bad, tmp_path / "again")
    assert [row.loss for row in again] == [row.loss for row in rows]


def test_a_step_without_half_of_its_clips_ends_the_run(
    alone: None, dataset: Path, recipe_with: Callable[..., TrainRecipe], tmp_path: Path
) -> None:
    bad = Path(shutil.copytree(dataset, tmp_path / "bad"))
    damage(bad, {f"clip{number}" for number in range(7)})
    recipe = recipe_with(**ALONE)
    with pytest.raises(InputError, match=r"Step 1: .* of its .* clips are damaged"):
        run(recipe, bad, tmp_path / "run")


def test_a_read_that_fails_is_not_taken_for_damage(dataset: Path, tmp_path: Path) -> None:
    gone = Path(shutil.copytree(dataset, tmp_path / "gone"))
    clips = read_index(open_storage(gone))
    for shard in {clip.shard for clip in clips}:
        (gone / shard).unlink()
    with pytest.raises(InputError, match="clip"):
        ClipReader(LatentDataset(open_storage(gone), clips)).read(0)
