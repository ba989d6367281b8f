"""Steps become rows of RUN/metrics.parquet and curves of RUN/tensorboard."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from groundwork.records import from_table, to_table
from groundwork.storage import Storage

METRICS = "metrics.parquet"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class StepMetrics:
    """What one optimiser step showed. `step` counts from 1; `loss` is the step's weighted mean over all clips.

    `gradient_norm` is before clipping; `tokens` are text and video of all clips, `flops` what training on them takes
    at least (three forward passes; recomputed layers count once); the strata are tenths of the
    timesteps, from nearly clean to pure noise, NaN where the step had none; `held_out_loss` at
    each of the recipe's timesteps, empty where none was measured; `damaged` clips were left out.
    `waiting_seconds` is how long the worker that waited longest waited for its clips before the `seconds` of the step;
    `workers` is how many there were.
    """

    step: int
    stage: str
    loss: float
    learning_rate: float
    gradient_norm: float
    seconds: float
    clips: int
    tokens: int
    flops: float
    stratum_loss: list[float]
    stratum_clips: list[int]
    held_out_loss: list[float] = field(default_factory=list)
    damaged: int = 0
    waiting_seconds: float = 0.0
    workers: int = 1

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("step", pa.int64()),
            ("stage", pa.string()),
            ("loss", pa.float32()),
            ("learning_rate", pa.float64()),
            ("gradient_norm", pa.float32()),
            ("seconds", pa.float32()),
            ("clips", pa.int32()),
            ("tokens", pa.int32()),
            ("flops", pa.float64()),
            ("stratum_loss", pa.list_(pa.float32())),
            ("stratum_clips", pa.list_(pa.int32())),
            ("held_out_loss", pa.list_(pa.float32())),
            ("damaged", pa.int32()),
            ("waiting_seconds", pa.float32()),
            ("workers", pa.int32()),
        ]
    )


def read_metrics(run: Storage, *, up_to_step: int | None = None) -> list[StepMetrics]:
    """The rows so far, in order, at most up to a step; none for a run that has not saved yet."""
    if not run.exists(METRICS):
        return []
    rows = from_table(run.read_table(METRICS), StepMetrics)
    return [row for row in rows if up_to_step is None or row.step <= up_to_step]


def write_metrics(run: Storage, rows: Sequence[StepMetrics]) -> None:
    """All rows of the run, in place of those that stood there."""
    run.write_table(METRICS, to_table(rows, StepMetrics))


_PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12, "A800": 312e12, "H800": 989e12}
"""FLOP/s of dense bfloat16 products, by what a device's name contains."""
_RECENT_STEPS = 20


def peak_flops() -> float | None:
    """Of this process's GPU; None where it is not known, and on CPUs."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return next((peak for known, peak in _PEAKS.items() if known in name), None)


def speed(rows: Sequence[StepMetrics], *, price_per_hour: float) -> dict[str, str]:
    """How fast the last steps were, in words: tokens and TFLOP per second of all workers, the share of the devices'
    peak (MFU) where that is known, and what all steps cost so far where a price is given."""
    recent = rows[-_RECENT_STEPS:]
    seconds = sum(row.seconds for row in recent)
    flops, peak = sum(row.flops for row in recent) / seconds, peak_flops()
    said = {"tokens/s": f"{sum(row.tokens for row in recent) / seconds:.0f}", "TFLOP/s": f"{flops / 1e12:.3g}"}
    if peak:
        said["MFU"] = f"{flops / rows[-1].workers / peak:.1%}"
    if price_per_hour:
        said["cost"] = f"{sum(row.seconds * row.workers for row in rows) / 3600 * price_per_hour:.2f}"
    return said


def points(row: StepMetrics) -> dict[str, float]:
    """What a step adds to curves, by their names; only what was measured."""
    facts = {
        "train/loss": row.loss,
        "train/gradient_norm": row.gradient_norm,
        "train/learning_rate": row.learning_rate,
        "speed/tokens_per_second": row.tokens / row.seconds,
        "speed/teraflops_per_second": row.flops / row.seconds / 1e12,
        "speed/waiting_seconds": row.waiting_seconds,
    }
    for stratum, (loss, clips) in enumerate(zip(row.stratum_loss, row.stratum_clips, strict=True)):
        if clips:
            facts[f"loss_by_timestep/{100 * stratum:03d}"] = loss
    if row.held_out_loss:
        facts["held_out/loss"] = sum(row.held_out_loss) / len(row.held_out_loss)
    return facts


class Curves:
    """TensorBoard event files, written as the run goes; a remote run gets them at every `save`."""

    def __init__(self, run: Storage, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # seconds to import, and only one worker writes

        self._run = run
        self._folder = Path(run.path(TENSORBOARD) if run.is_local else tempfile.mkdtemp(prefix="cvx-tensorboard-"))
        self._writer = SummaryWriter(str(self._folder), purge_step=first_step, flush_secs=5)

    def add(self, row: StepMetrics) -> None:
        """One step's points."""
        for name, value in points(row).items():
            self._writer.add_scalar(name, value, row.step)

    def save(self) -> None:
        """Make sure that storage has what was added."""
        self._writer.flush()
        if not self._run.is_local:
            self._run.upload(self._folder, TENSORBOARD)
