"""Weights & Biases: what it is told of a step, and what is said where its package is missing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from groundwork.errors import RecipeError
from training.metrics import StepMetrics, points
from training.recipe import TrainRecipe
from training.trainer import train


def test_without_the_package_a_run_that_wants_it_does_not_start(
    dataset: Path, recipe_with: Callable[..., TrainRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RecipeError, match=r"wandb is not installed\.\n  Install it \(pip install"):
        train(recipe_with(logging={"wandb": "films"}), dataset=str(dataset), out=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_row_becomes_named_points_of_what_was_measured() -> None:
    row = StepMetrics(
        step=7,
        stage="all",
        loss=0.5,
        learning_rate=1e-3,
        gradient_norm=2.0,
        seconds=0.5,
        clips=2,
        tokens=100,
        flops=1e12,
        stratum_loss=[0.4, math.nan, 0.6, *[math.nan] * 7],
        stratum_clips=[1, 0, 1, *[0] * 7],
        held_out_loss=[0.1, 0.3],
    )
    assert points(row) == {
        "train/loss": 0.5,
        "train/gradient_norm": 2.0,
        "train/learning_rate": 1e-3,
        "speed/tokens_per_second": 200.0,
        "speed/teraflops_per_second": 2.0,
        "speed/waiting_seconds": 0.0,
        "loss_by_timestep/000": 0.4,
        "loss_by_timestep/200": 0.6,
        "held_out/loss": pytest.approx(0.2),
    }
