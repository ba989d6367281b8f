"""The last checkpoint becomes the folder that the captioner stage takes: an adapter or weights, words, and a card."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.captions.training.fit import METRICS
from data_pipeline.captions.training.pairs import Pairs
from data_pipeline.captions.training.settings import DistilSettings
from data_pipeline.captions.training.student import load_base
from groundwork.storage import Storage

RESULT, CARD = "captioner", "card.json"
_WORDS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
_NOT_WORDS = ("*.index.json", CARD)
_ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json")


def write_result(
    run: Storage, checkpoint: Path, settings: DistilSettings, pairs: Pairs, *, dataset: str, dataset_hash: str
) -> dict[str, Any]:
    """RUN/captioner, whole or not at all; returns its card. An adapter names the base and is loaded on top of it."""
    whole, target = Path(run.path(f".{RESULT}.partial")), Path(run.path(RESULT))
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir(parents=True)
    if settings.method == "lora" and not settings.merge:
        # Nothing else: beside a config.json transformers would look for whole weights here.
        _copy(checkpoint, whole, _ADAPTER)
        _in_order(whole / "adapter_config.json")
    else:
        _copy(_base_folder(settings), whole, _WORDS, without=_NOT_WORDS)
        if settings.method == "lora":
            _merged(checkpoint, settings).save_pretrained(whole)
        else:
            _copy(checkpoint, whole, _WEIGHTS)
    card = _card(run, whole, settings, pairs) | {"dataset": dataset, "dataset_hash": dataset_hash}
    Storage(str(whole)).write_json(CARD, card)
    shutil.rmtree(target, ignore_errors=True)
    whole.rename(target)
    return card


def _base_folder(settings: DistilSettings) -> Path:
    """Where the base's files lie: its folder, or the hub's cache."""
    if Path(settings.model).is_dir():
        return Path(settings.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(settings.model, revision=settings.revision or None, allow_patterns=list(_WORDS)))


def _copy(source: Path, target: Path, patterns: tuple[str, ...], *, without: tuple[str, ...] = ()) -> None:
    for pattern in patterns:
        for path in sorted(source.glob(pattern)):
            if not any(path.match(unwanted) for unwanted in without):
                shutil.copyfile(path, target / path.name)


def _merged(checkpoint: Path, settings: DistilSettings) -> Any:
    from peft import PeftModel

    model = PeftModel.from_pretrained(load_base(settings, dtype="auto"), checkpoint)
    with torch.no_grad():
        return model.merge_and_unload(safe_merge=True)


def _in_order(adapter_config: Path) -> None:
    """peft writes the names of the layers in the order of a set, which differs from process to process."""
    said = json.loads(adapter_config.read_text())
    said["target_modules"] = sorted(said["target_modules"])
    adapter_config.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n")


def _card(run: Storage, folder: Path, settings: DistilSettings, pairs: Pairs) -> dict[str, Any]:
    return {
        "task": settings.task,
        "base": settings.model,
        "base_revision": settings.revision,
        "weights": {path.name: _sha256(path) for path in sorted(folder.glob("*.safetensors"))},
        "learnt_from": pairs.captioner,
        "pairs": {"learnt": len(pairs.learnt), "held_out": len(pairs.held_out), "hash": pairs.digest},
        "left_out": sorted(Path(path).stem for path in run.list("failed")),
        "metrics": figures(run.read_table(METRICS)),
        "settings": settings.model_dump(mode="json"),
        "captioner": _as_captioner(run, settings),
        "versions": {name: metadata.version(name) for name in ("transformers", "torch", "peft", "accelerate")},
    }


def figures(steps: pa.Table) -> dict[str, Any]:
    """How the training went: first loss, mean loss of its last tenth, and the held-out losses by step."""
    losses = steps.column("loss").to_pylist()
    last = losses[-max(1, len(losses) // 10) :]
    judged = [row for row in steps.select(["step", "held_out_loss"]).to_pylist() if row["held_out_loss"] is not None]
    return {
        "steps": len(losses),
        "first_loss": losses[0],
        "final_loss": sum(last) / len(last),
        "held_out_loss": {str(row["step"]): row["held_out_loss"] for row in judged},
    }


def _as_captioner(run: Storage, settings: DistilSettings) -> dict[str, Any]:
    """The captioner as a recipe takes it (`captions.captioners`): asked, and shown frames, as it was in training."""
    model = settings.sees.model_copy(update={"model": run.path(RESULT), "revision": ""})
    part, route = ("video", "video") if settings.task == "caption" else ("language", "summary")
    said = CaptionerSettings.model_validate({"name": "distilled", "route": route, part: model})
    return said.model_dump(mode="json", exclude_defaults=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
