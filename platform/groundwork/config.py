"""A YAML recipe plus command-line overrides becomes one frozen, validated model with a stable hash."""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from groundwork.errors import RecipeError


class FrozenModel(BaseModel):
    """Base of every recipe and wire type: immutable; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


M = TypeVar("M", bound=BaseModel)


def shipped_recipes(folder: Path) -> list[str]:
    """Names of the recipes in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def find_recipe(name_or_path: str, *, folder: Path) -> Path:
    """The file of a recipe given as a path or as the name of one shipped in `folder`.

    Raises RecipeError when neither exists; it lists the shipped names.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    shipped = folder / f"{name_or_path}.yaml"
    if shipped.is_file():
        return shipped
    known = shipped_recipes(folder)
    close = difflib.get_close_matches(name_or_path, known, n=1)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    raise RecipeError(f"No recipe {name_or_path!r}.", f"{meant}Give a path, or one of: {', '.join(known)}.")


def load_recipe(model: type[M], name_or_path: str, *, folder: Path) -> M:
    """Read and validate a recipe. Raises RecipeError that names the file, every wrong key and the nearest known key."""
    path = find_recipe(name_or_path, folder=folder)
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}", "Mend the file at the named line.") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} must hold a mapping of fields, not {type(raw).__name__}.")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(describe_validation(error, model=model, source=str(path))) from error


def describe_validation(error: ValidationError, *, model: type[BaseModel], source: str) -> str:
    """Every problem of a validation on a line of its own; an unknown key is answered with the nearest known one."""
    lines = [f"{source}:"]
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"]) or "(whole)"
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, problem["loc"][:-1])
            close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
            meant = f"; did you mean {close[0]!r}?" if close else f"; known keys: {', '.join(known)}"
            lines.append(f"  {where}: unknown key{meant}")
        else:
            given = f" (got {problem['input']!r})" if problem["loc"] else ""  # a whole file would bury the message
            lines.append(f"  {where}: {problem['msg']}{given}")
    return "\n".join(lines)


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    """Field names of the model found by following `path` from `model`; empty where the path leaves the models."""
    current: Any = model
    for part in path:
        field = getattr(current, "model_fields", {}).get(str(part))
        current = field.annotation if field is not None else None
    return sorted(getattr(current, "model_fields", {}))


def canonical_json(model: BaseModel) -> str:
    """The model as JSON with sorted keys: equal settings give equal bytes."""
    return json.dumps(model.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def recipe_hash(model: BaseModel) -> str:
    """First 16 hex digits of the sha256 of the model's canonical JSON."""
    return hashlib.sha256(canonical_json(model).encode()).hexdigest()[:16]
