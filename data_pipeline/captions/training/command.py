"""The command `curate captioner train`: its options and what it prints."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from data_pipeline.captions.training.settings import DistilSettings, WorkerSettings
from groundwork.commands import Command, RayOptions
from groundwork.errors import UsageError


class DistilOptions(RayOptions, DistilSettings, WorkerSettings):
    """Which captions, which base, where to, and how."""

    dataset: str = ""
    """Dataset folder or URI (also as the first word)."""
    out: str = ""
    """Run folder on this machine. Default: runs/captioner."""


def _distil(options: DistilOptions) -> dict[str, Any]:
    usage = "captioner train DATASET --model FOLDER_OR_ID --out RUN"
    for value, what in ((options.dataset, "dataset"), (options.model, "base")):
        if not value:
            raise UsageError(f"No {what} is given.", usage)
    missing = [name for name in ("peft", "accelerate") if find_spec(name) is None]
    if missing:
        raise UsageError(f"{' and '.join(missing)} is not installed.", "Install the extra [captioner].")
    from data_pipeline.captions.training.trainer import train_captioner

    said = options.model_dump()
    settings = DistilSettings.model_validate({name: said[name] for name in DistilSettings.model_fields})
    workers = WorkerSettings.model_validate({name: said[name] for name in WorkerSettings.model_fields})
    out = options.out or "runs/captioner"
    return train_captioner(settings, workers, dataset=options.dataset, out=out, address=options.address)


def _distil_text(summary: dict[str, Any]) -> str:
    head = "already done" if summary["already_done"] else f"done in {summary['seconds']:.0f} s"
    judged = list(summary["held_out_loss"].values())
    held_out = f"{judged[0]:.4f} → {judged[-1]:.4f}" if judged else "no video held out"
    return "\n".join(
        [
            f"{head}: {summary['steps']} steps over {summary['pairs']['learnt']} pairs, "
            f"{summary['pairs']['held_out']} held out, {len(summary['left_out'])} clips unreadable",
            f"loss      {summary['first_loss']:.4f} → {summary['final_loss']:.4f}",
            f"held out  {held_out}",
            f"captioner {summary['captioner']} (its card.json says how a recipe names it)",
        ]
    )


COMMAND = Command(
    "captioner train",
    "teach a model of your own to write the captions of a dataset; the same command resumes",
    DistilOptions,
    _distil,
    text=_distil_text,
)
