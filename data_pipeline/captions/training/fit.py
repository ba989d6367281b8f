"""Pairs and a student become a trained one: transformers' Trainer with our order, our metrics and whole checkpoints."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
import torch.distributed as dist
import transformers
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from data_pipeline.captions.training import checkpoints
from data_pipeline.captions.training.examples import Examples
from data_pipeline.captions.training.order import num_steps, plan_passes
from data_pipeline.captions.training.pairs import Pairs
from data_pipeline.captions.training.settings import DistilSettings, WorkerSettings
from data_pipeline.captions.training.student import load_student, uses_bfloat16
from groundwork.storage import Storage
from groundwork.telemetry import Progress, get_logger

METRICS = "metrics.parquet"
_METRICS = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("learning_rate", pa.float64()),
        ("gradient_norm", pa.float64()),
        ("seconds", pa.float64()),
        ("held_out_loss", pa.float64()),
    ]
)
"""One row per optimiser step: mean loss per answer token, norm before clipping; held_out_loss where it was measured."""


@dataclass(frozen=True)
class Job:
    """A training: its settings, pairs and run folder on this machine (or one that all workers share)."""

    settings: DistilSettings
    workers: WorkerSettings
    pairs: Pairs
    run: Storage


def fit(job: Job, *, rank: int = 0, world: int = 1) -> None:
    """Train to the last step, from the newest whole checkpoint. Raises KeyboardInterrupt after a checkpoint."""
    transformers.utils.logging.set_verbosity_error()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    student = load_student(job.settings, device=device)
    reached = checkpoints.newest_complete(job.run) if rank == 0 or world == 1 else None
    if world > 1:
        shared = [reached]
        dist.broadcast_object_list(shared, src=0)
        reached = shared[0]
    trainer = _Distilling(job, student.model, student.teacher, rank=rank, world=world, device=device)
    with _stopping(trainer) as stopped:
        trainer.train(resume_from_checkpoint=None if reached is None else str(reached))
    if stopped:
        raise KeyboardInterrupt


class _Distilling(Trainer):  # type: ignore[misc]
    """Trainer, but what each forward pass reads is planned beforehand, and a step's row has its seconds."""

    def __init__(self, job: Job, model: Any, teacher: Any, *, rank: int, world: int, device: str) -> None:
        pairs, settings = job.pairs, job.settings
        self._passes = plan_passes(pairs.learnt, settings, rank=rank, world=world)
        self._decoders = job.workers.decoders
        steps = num_steps(len(pairs.learnt), settings, world=world)
        held_out = Examples(pairs.held_out, short_side=settings.short_side, run=job.run) if pairs.held_out else None
        super().__init__(
            model=model,
            args=_arguments(job, steps=steps, device=device, world=world),
            train_dataset=Examples(pairs.learnt, short_side=settings.short_side, run=job.run),
            eval_dataset=held_out,
            data_collator=teacher,
            callbacks=[_Keeping(job.run, steps=steps, judges=held_out is not None)],
        )
        self.remove_callback(PrinterCallback)
        self._began = time.monotonic()

    def get_train_dataloader(self) -> Any:
        """Every forward pass of the whole training, as one epoch: resuming skips those that were done."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._passes,
            collate_fn=self.data_collator,
            num_workers=self._decoders,
            pin_memory=torch.cuda.is_available(),
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        now = time.monotonic()
        if "loss" in logs:
            logs["seconds"], self._began = now - self._began, now
        super().log(logs, start_time)


def _arguments(job: Job, *, steps: int, device: str, world: int) -> TrainingArguments:
    settings = job.settings
    arguments = TrainingArguments(
        output_dir=job.run.path(checkpoints.FOLDER),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_clips,
        per_device_eval_batch_size=1,  # the mean over clips, whatever their lengths
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup_share * steps),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip_norm,
        bf16=uses_bfloat16(settings, device),
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if job.pairs.held_out else "no",
        eval_steps=settings.evaluate_every,
        prediction_loss_only=True,
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        dataloader_num_workers=job.workers.decoders,
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        report_to="none",
        disable_tqdm=True,
        **_when(
            settings.gradient_checkpointing,
            activation_checkpointing=True,
            activation_checkpointing_kwargs={"use_reentrant": False},
        ),
        **_when(world > 1, ddp_backend="gloo" if device == "cpu" else "nccl", ddp_find_unused_parameters=False),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # else it would split every batch over all GPUs it sees; several have a worker each
    return arguments


def _when(wanted: bool, **arguments: Any) -> dict[str, Any]:
    return arguments if wanted else {}


class _Keeping(TrainerCallback):  # type: ignore[misc]
    """Marks whole checkpoints, keeps the table of steps beside them, shows progress, stops when asked to."""

    def __init__(self, run: Storage, *, steps: int, judges: bool) -> None:
        self._run, self._steps, self._judges = run, steps, judges
        self._progress: Progress | None = None
        self.stop_requested = False

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress = Progress("distil", total=self._steps, unit="step", initial=state.global_step)

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self._steps:
            control.should_evaluate, control.should_save = self._judges, True
        elif self.stop_requested:
            control.should_save = control.should_training_stop = True

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Mapping[str, float], **_: Any) -> None:
        if self._progress is not None and "loss" in logs:
            self._progress.update(1, loss=f"{logs['loss']:.4f}")

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        if dist.is_initialized():
            dist.barrier()  # each worker writes the state of its own random numbers
        if state.is_world_process_zero:
            self._run.write_table(METRICS, metrics_table(state.log_history))
            checkpoints.mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        if self._progress is not None:
            self._progress.close()


def metrics_table(history: list[dict[str, float]]) -> pa.Table:
    """The Trainer's log as a table of steps."""
    rows: dict[int, dict[str, float]] = {}
    for entry in history:
        row = rows.setdefault(int(entry["step"]), {"step": int(entry["step"])})
        if "loss" in entry:
            row |= {name: entry[name] for name in ("loss", "learning_rate", "seconds")}
            row["gradient_norm"] = entry.get("grad_norm", math.nan)
        if "eval_loss" in entry:
            row["held_out_loss"] = entry["eval_loss"]
    return pa.Table.from_pylist([row for row in rows.values() if "loss" in row], schema=_METRICS)


@contextmanager
def _stopping(trainer: _Distilling) -> Iterator[list[int]]:
    """The first Ctrl-C or SIGTERM lets the step end and a checkpoint be written, the second one stops at once."""
    stopped: list[int] = []
    keeping = next(one for one in trainer.callback_handler.callbacks if isinstance(one, _Keeping))

    def stop(number: int, _: Any) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(number)
        keeping.stop_requested = True
        get_logger("distil").info("stopping after this step, with a checkpoint (Ctrl-C again to leave at once)")

    try:
        before = {name: signal.signal(name, stop) for name in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: the driver stops the workers
        before = {}
    try:
        yield stopped
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
