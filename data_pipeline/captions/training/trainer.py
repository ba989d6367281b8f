"""A captioned dataset and a base become a captioner of one's own: a run that goes on where it stopped."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from data_pipeline.captions.training import checkpoints
from data_pipeline.captions.training.fit import Job, fit
from data_pipeline.captions.training.order import num_steps
from data_pipeline.captions.training.pairs import Pairs, read_pairs
from data_pipeline.captions.training.result import RESULT, write_result
from data_pipeline.captions.training.settings import DistilSettings, WorkerSettings
from data_pipeline.stored import read_manifest
from groundwork.config import recipe_hash
from groundwork.errors import PlatformError, RecipeError, RunError, UsageError
from groundwork.run_lock import only_run
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import get_logger

CONFIG, SUMMARY = "config.json", "summary.json"
_MAY_CHANGE = frozenset({"checkpoint_every", "merge"})


def train_captioner(
    settings: DistilSettings, workers: WorkerSettings, *, dataset: str, out: str, address: str | None = None
) -> dict[str, Any]:
    """Train, or go on with, the run in `out`, a folder on this machine, and return its summary; a finished run says so
    and does nothing.

    Raises InputError where the dataset gives no pairs, RecipeError where the base cannot be loaded or the run was
    started with other settings, RunError where it is locked or its workers failed, KeyboardInterrupt after saving.
    """
    run, data = open_storage(out), open_storage(dataset)
    if not run.is_local:
        raise UsageError(f"--out {out} is no folder on this machine.", "Train into a folder and copy RUN/captioner.")
    if Path(settings.model).is_dir():
        settings = settings.model_copy(update={"model": str(Path(settings.model).resolve())})
    pairs = read_pairs(data, settings)
    with only_run(run):
        manifest = read_manifest(data)
        dataset_hash = str(manifest.get("dataset_hash", ""))
        _open_run(run, settings, workers, dataset=data.uri, pairs=pairs)
        if run.exists(SUMMARY) and (before := run.read_json(SUMMARY))["merged"] == settings.merge:
            return dict(before) | {"already_done": True}
        began, steps = time.monotonic(), num_steps(len(pairs.learnt), settings, world=workers.workers)
        if not pairs.held_out:
            get_logger("distil").warning("no video is held out: nothing says whether the captioner learns by heart")
        reached = checkpoints.newest_complete(run)
        if reached is None or checkpoints.step_of(reached) < steps:
            if workers.workers == 1:
                fit(Job(settings, workers, pairs, run))
            else:
                _fit_on_ray(settings, workers, dataset=dataset, run=run, address=address)
        last = checkpoints.newest_complete(run)
        if last is None or checkpoints.step_of(last) < steps:
            raise RunError(f"{run.uri} ended without its last checkpoint.", "Run the same command again to go on.")
        card = write_result(run, last, settings, pairs, dataset=data.uri, dataset_hash=dataset_hash)
        summary = {
            "run": run.uri,
            "captioner": run.path(RESULT),
            "merged": settings.merge,
            "pairs": card["pairs"],
            "left_out": card["left_out"],
            **card["metrics"],
            "seconds": round(time.monotonic() - began, 2),
        }
        run.write_json(SUMMARY, summary)
        return summary | {"already_done": False}


def _open_run(run: Storage, settings: DistilSettings, workers: WorkerSettings, *, dataset: str, pairs: Pairs) -> None:
    """Write config.json, or check that the run that stands there is the same one. Raises RecipeError."""
    config: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "settings_hash": recipe_hash(settings),
        "workers": workers.workers,
        "dataset": dataset,
        "pairs": pairs.digest,
    }
    if run.exists(CONFIG):
        before = run.read_json(CONFIG)
        old, new = (_deciding(one) for one in (before, config))
        names = sorted((old.keys() | new.keys()) - _MAY_CHANGE)
        changed = [f"  - {name}: {old.get(name)} → {new.get(name)}" for name in names if old.get(name) != new.get(name)]
        if changed:
            hint = "Go on with the settings in its config.json, or give another --out."
            raise RecipeError("\n".join([f"{run.uri} was started with other settings:", *changed]), hint)
    run.write_json(CONFIG, config)


def _deciding(config: dict[str, Any]) -> dict[str, Any]:
    return {**config["settings"], "workers": config["workers"], "pairs": config["pairs"]}


def _fit_on_ray(
    settings: DistilSettings, workers: WorkerSettings, *, dataset: str, run: Storage, address: str | None
) -> None:
    """One worker per GPU (without any: per process), which share each step by DDP."""
    from groundwork.ray_session import ray_session

    with ray_session(address):
        import torch
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpus = torch.cuda.is_available()
        trainer = TorchTrainer(
            _worker_main,
            train_loop_config={
                "settings": settings.model_dump_json(),
                "workers": workers.model_dump_json(),
                "dataset": dataset,
                "out": run.path(),
            },
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=workers.workers, use_gpu=gpus),
            run_config=RunConfig(
                name=uuid.uuid4().hex[:8],  # never one used before: Ray would resume by it
                storage_path=run.path("work/ray"),
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _explain(error, run) from error
        finally:
            run.delete_tree("work/ray")


def _worker_main(config: dict[str, Any]) -> None:
    """What Ray runs on each worker."""
    import ray.train

    settings = DistilSettings.model_validate_json(config["settings"])
    workers = WorkerSettings.model_validate_json(config["workers"])
    pairs = read_pairs(open_storage(config["dataset"]), settings)
    context = ray.train.get_context()
    job = Job(settings, workers, pairs, open_storage(config["out"]))
    fit(job, rank=context.get_world_rank(), world=context.get_world_size())


def _explain(error: Exception, run: Storage) -> PlatformError:
    """A worker's own error for people where there is one, else what Ray says, with where to go on."""
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, PlatformError):
            return cause
        waiting += list(getattr(cause, "worker_failures", {}).values())
        waiting += [inner for inner in (getattr(cause, "cause", None), cause.__cause__) if isinstance(inner, Exception)]
    hint = f"{run.uri} is safe up to its last checkpoint: run the same command again to go on."
    return RunError(f"The training workers failed: {str(error).strip().splitlines()[-1]}", hint)
