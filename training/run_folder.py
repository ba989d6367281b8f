"""A recipe, a dataset and an output folder become a run that may start, go on, or is finished."""

from __future__ import annotations

from typing import Any

from groundwork.config import recipe_hash
from groundwork.errors import RecipeError
from groundwork.storage import Storage
from training.recipe import MACHINE_FIELDS, TrainRecipe

CONFIG, SUMMARY, SAMPLES = "config.json", "summary.json", "samples"


def open_run(run: Storage, recipe: TrainRecipe, *, dataset: str, dataset_hash: str, base: str = "") -> None:
    """Write config.json, or check that the run that stands there is the same one.

    What `MACHINE_FIELDS` lists may change. `base` identifies the weights that stay frozen. Raises RecipeError that
    names every field that must not.
    """
    config: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "dataset": dataset,
        "dataset_hash": dataset_hash,
        "initial_weights_hash": base,
    }
    if run.exists(CONFIG):
        before = run.read_json(CONFIG)
        changed = changed_fields(before["recipe"], config["recipe"])
        if before["dataset_hash"] != dataset_hash:
            changed.append(f"dataset: {before['dataset']} ({before['dataset_hash']}) → {dataset} ({dataset_hash})")
        if before.get("initial_weights_hash", "") != base:
            changed.append(f"initial_weights: {recipe.initial_weights} holds other tensors than at the start")
        if changed:
            listed = "\n".join(f"  - {change}" for change in changed)
            hint = "Go on with the settings in its config.json, or give another --out."
            raise RecipeError(f"{run.uri} was started with other settings:\n{listed}", hint)
    run.write_json(CONFIG, config)


def changed_fields(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Every outcome-deciding field that differs, as "path: old → new"."""
    old, new = _flat(before), _flat(now)
    return [
        f"{path}: {old.get(path, 'unset')} → {new.get(path, 'unset')}"
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) and not _is_of_the_machine(path)
    ]


def _is_of_the_machine(path: str) -> bool:
    return any(path == field or path.startswith(f"{field}.") for field in MACHINE_FIELDS)


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value:
        pairs = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: value}
    flat: dict[str, Any] = {}
    for key, item in pairs:
        flat |= _flat(item, f"{path}.{key}" if path else key)
    return flat


def finished_summary(run: Storage) -> dict[str, Any] | None:
    """What a finished run said at its end; None while it is not finished."""
    return dict(run.read_json(SUMMARY)) if run.exists(SUMMARY) else None
