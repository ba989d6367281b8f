"""A recipe and a dataset become trained weights on Ray: check, run the workers, export, report."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from groundwork.errors import PlatformError, RunError, StorageError
from groundwork.ray_session import ray_session
from groundwork.run_lock import only_run
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import Progress, get_logger
from training import checkpoint
from training.datasets import open_data
from training.engines.groups import check_counts
from training.export import WEIGHTS, export_weights
from training.fit import variant_of
from training.initial import frozen_base
from training.logs import PROGRESS, STOP
from training.metrics import read_metrics
from training.previews import Previews
from training.quarantine import damaged_clips
from training.recipe import TrainRecipe
from training.report import write_report
from training.run_folder import SUMMARY, finished_summary, open_run
from training.samples import Prompts, write_last_samples
from training.wandb_rows import WandbRows, check_installed
from training.worker import Job, run_worker

_RAY_FOLDER = "work/ray"
_POLL_SECONDS = 0.5
_STOP_SECONDS = 30.0  # how long workers get to save after Ctrl-C

Watcher = Callable[[int], None]
"""Called every now and then with the step that training has got to."""


def train(recipe: TrainRecipe, *, dataset: str | Sequence[str], out: str, address: str | None = None) -> dict[str, Any]:
    """Train, or go on with, the run in `out`, and return its summary; a finished run says so and does nothing.

    Uses a Ray that this process is connected to, else `address`, else an embedded one. Raises InputError where the
    dataset does not fit, RecipeError where the run was started with other settings, RunError where it is locked or
    its workers failed too often, StorageError for a full disk, KeyboardInterrupt after saving.
    """
    run, datasets = open_storage(out), (dataset,) if isinstance(dataset, str) else tuple(dataset)
    data = open_data(recipe, datasets)
    check_installed(recipe)
    check_counts(recipe.engine, recipe.workers, heads=variant_of(recipe).denoiser.num_heads)
    with only_run(run):
        open_run(run, recipe, dataset=data.uri, dataset_hash=data.hash, base=frozen_base(recipe))
        before = finished_summary(run)
        if before is not None:
            return before | {"already_done": True}
        began = time.monotonic()
        start = _reached(run)
        if start < recipe.num_steps:
            job = Job(recipe=recipe, datasets=datasets, out=out)
            with (
                ray_session(address),
                Previews(run, recipe, datasets=datasets) as previews,
                WandbRows(run, recipe) as rows,
            ):
                _run_workers(job, run, start=start, watchers=(previews.look, rows.look))
        seconds = time.monotonic() - began
        digest = _export(run, recipe)
        write_last_samples(run, Prompts(data, recipe.samples), step=recipe.num_steps)
        summary = _finish(run, recipe, num_clips=len(data.clips), start=start, seconds=seconds, digest=digest)
        write_report(run.uri)
        return summary | {"already_done": False}


def _reached(run: Storage) -> int:
    found = checkpoint.newest_complete(run)
    return found.step if found is not None else 0


def _export(run: Storage, recipe: TrainRecipe) -> str:
    """Write RUN/weights from the last checkpoint; returns their sha256."""
    found = checkpoint.newest_complete(run)
    if found is None or found.step < recipe.num_steps:
        raise RunError(f"{run.uri} ended without its last checkpoint.", "Run the same command again to go on.")
    return export_weights(run, found, recipe=recipe)


def _finish(
    run: Storage, recipe: TrainRecipe, *, num_clips: int, start: int, seconds: float, digest: str
) -> dict[str, Any]:
    """Write summary.json, which marks the run as finished."""
    rows = read_metrics(run)
    last = rows[-max(1, len(rows) // 10) :]
    summary = {
        "run": run.uri,
        "steps": recipe.num_steps,
        "resumed_from_step": start,
        "first_loss": rows[0].loss,
        "final_loss": sum(row.loss for row in last) / len(last),
        "seconds": round(seconds, 2),
        "steps_per_second": round(len(rows) / sum(row.seconds for row in rows), 3),
        "clips": num_clips,
        "damaged_clips": damaged_clips(run),
        "weights": run.child(WEIGHTS).uri,
        "weights_sha256": digest,
        "report": run.child("report/index.html").uri,
    }
    run.write_json(SUMMARY, summary)
    return summary


def _run_workers(job: Job, run: Storage, *, start: int, watchers: Sequence[Watcher]) -> None:
    """Ray Train in a thread, so that this one can show progress, call the watchers, and answer Ctrl-C."""
    run.delete(STOP)
    run.delete(PROGRESS)
    run.delete_tree(_RAY_FOLDER)
    outcome: dict[str, Any] = {}
    trainer = _trainer(job, run)

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except BaseException as error:
            outcome["error"] = error
        finally:
            ended.set()

    # An event, because joining a thread that was interrupted once takes it for ended (Python 3.11, bpo-45274).
    ended = threading.Event()
    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    try:
        _show_progress(ended, run, total=job.recipe.num_steps, start=start, watchers=watchers)
    except KeyboardInterrupt:
        if run.exists(PROGRESS):
            get_logger("train").info("stopping: the workers save first (Ctrl-C again to leave at once)")
            run.write_bytes(STOP, b"")
            ended.wait(_STOP_SECONDS)
            if "error" in outcome:
                get_logger("train").warning("the workers ended before they saved: %s", outcome["error"])
        raise
    finally:
        if ended.is_set():
            with suppress(StorageError):
                run.delete_tree(_RAY_FOLDER)
    if "error" in outcome:
        raise _explain(outcome["error"], run) from outcome["error"]
    failure = outcome["result"].return_value  # metrics would be those of a checkpoint, and Ray keeps none
    if failure is not None:
        raise StorageError(*failure)


def _show_progress(
    ended: threading.Event, run: Storage, *, total: int, start: int, watchers: Sequence[Watcher]
) -> None:
    shown, warned = start, set[str]()
    with Progress("train", total=total, unit="step", initial=start) as progress:
        while not ended.wait(_POLL_SECONDS):
            with suppress(StorageError):
                if run.exists(PROGRESS):
                    facts = run.read_json(PROGRESS)
                    if facts["step"] != shown:
                        said = {"loss": f"{facts['loss']:.4f}", "steps/s": f"{facts['steps_per_second']:.2f}"}
                        progress.update(facts["step"] - shown, **said, **facts["speed"])
                    shown = facts["step"]
                    for text in facts["warnings"]:
                        if text not in warned:
                            get_logger("train").warning(text)
                            warned.add(text)
            for watcher in watchers:
                watcher(shown)


def _trainer(job: Job, run: Storage) -> Any:
    """Ray Train v2 with gloo on CPUs. Ray keeps no checkpoints: the run has its own, durable ones."""
    import torch
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers, use_gpu = job.recipe.workers, torch.cuda.is_available()
    resources = {"CPU": _cpus_per_worker(workers.fewest, workers.cpus)} | ({"GPU": 1.0} if use_gpu else {})
    return TorchTrainer(
        _worker_main,
        train_loop_config={"recipe": job.recipe.model_dump_json(), "datasets": job.datasets, "out": job.out},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=workers.timeout_seconds),
        scaling_config=ScalingConfig(
            num_workers=workers.count if workers.fewest == workers.count else (workers.fewest, workers.count),
            elastic_resize_monitor_interval_s=workers.resize_seconds,
            use_gpu=use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex[:8],  # never one used before: Ray would resume by it
            storage_path=run.path(_RAY_FOLDER),
            storage_filesystem=None if run.is_local else run.filesystem,
            failure_config=FailureConfig(max_failures=workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )


def _cpus_per_worker(count: int, cpus: float) -> float:
    """The CPUs asked for, or an equal share of a cluster that has fewer: waiting for more would never end."""
    import ray

    there = float(ray.cluster_resources().get("CPU", 0.0))
    if there >= count * cpus or there == 0.0:
        return cpus
    get_logger("train").info("the cluster has %g CPUs for %d workers of %g: they share", there, count, cpus)
    return int(there / count * 100) / 100


def _worker_main(config: dict[str, Any]) -> tuple[str, str] | None:
    """What Ray runs on each worker; the first one's answer becomes the result's `return_value`."""
    import ray.train

    recipe = TrainRecipe.model_validate_json(config["recipe"])
    job = Job(recipe, datasets=config["datasets"], out=config["out"])
    return run_worker(job, report=ray.train.report, leaving=_leaving)


def _leaving() -> str:
    """What Ray knows of machines that are about to be taken away; every worker must call it equally often."""
    import ray.train

    info = ray.train.get_preemption_info()
    if info is None:
        return ""
    workers = ", ".join(map(str, info.preempted_ranks))
    when = f"at {time.strftime('%H:%M:%S', time.gmtime(info.deadline_ms / 1e3))} UTC" if info.deadline_ms else "soon"
    return f"the machine of worker {workers} is taken away {when}: until then the run saves as often as it can."


def _explain(error: BaseException, run: Storage) -> PlatformError:
    """A worker's own error for people where there is one, else what Ray says, with where to go on."""
    for cause in _causes(error):
        if isinstance(cause, PlatformError):
            return cause
    reached = _reached(run)
    hint = f"{run.uri} is safe up to step {reached}: run the same command again to go on."
    return RunError(f"The training workers failed: {str(error).strip().splitlines()[-1]}", hint)


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting = [error]

    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        found.append(current)
        inner = [current.__cause__, getattr(current, "cause", None)]
        inner += list(getattr(current, "worker_failures", {}).values())
        waiting += [cause for value in inner if isinstance(cause := value, BaseException)]
    return found
