"""A recipe's model becomes a loaded one; what it is, for the record, is known without loading it."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from data_pipeline.captions import cogvlm2, endpoint, prompts, reader, vllm_engine
from data_pipeline.captions.asks import Model, Sampling
from data_pipeline.captions.settings import ModelSettings
from data_pipeline.signals import text
from groundwork.errors import RecipeError

_ASKED_FROM_ONE_PROCESS = ("endpoint",)


def load_model(settings: ModelSettings, *, device: str) -> Model:
    """The model, ready to answer. Raises RecipeError when it cannot be loaded."""
    if settings.backend == "endpoint":
        return endpoint.EndpointModel(settings)
    if settings.backend == "vllm":
        return vllm_engine.VllmModel(settings)
    if settings.backend == "rapidocr":
        return reader.TextReader()
    if settings.backend == "cogvlm2":
        return cogvlm2.CogVLM2Caption(settings, device=device)
    if settings.backend == "python":
        made: Model = _factory(settings.model)(settings, device=device)
        return made
    from data_pipeline.captions.local_models import LocalModel

    return LocalModel(settings, device=device)


def require(part: str, settings: ModelSettings) -> None:
    """Raises RecipeError, before anything is read, for a model that cannot be had here as far as that is known."""
    if not settings.model:
        raise RecipeError(
            f"captions: the {part} model has no name.",
            f"Give its folder, hub id or served name: --captions.captioners.0.{part}.model NAME",
        )
    if settings.backend == "endpoint":
        endpoint.require(settings)
    elif settings.backend == "vllm":
        vllm_engine.require()
    elif settings.backend == "cogvlm2":
        cogvlm2.require(settings)
    elif settings.backend == "rapidocr":
        text.require()
    elif settings.backend == "python":
        _factory(settings.model)


def identity(settings: ModelSettings) -> dict[str, Any]:
    """What decides the model's answers: weights (sha256 of a local folder, else id and revision), how it is asked.

    Equal identities give equal captions; addresses, keys, prices and limits are not part of it.
    """
    folder = Path(settings.model)
    local = settings.backend not in ("endpoint", "rapidocr") and folder.is_dir()
    if settings.backend == "rapidocr":
        return {**settings.model_dump(mode="json", exclude={"endpoint", "batch"}), "weights": text.version()}
    return {
        **settings.model_dump(mode="json", exclude={"endpoint", "batch"}),
        "weights": _weights_hash(folder) if local else "",
        "jpeg_quality": settings.endpoint.jpeg_quality if settings.backend in ("endpoint", "vllm") else 0,
    }


def sampling(settings: ModelSettings) -> Sampling:
    """How the model draws words at the first try."""
    return Sampling(settings.max_new_tokens, settings.temperature, settings.top_p)


def words(part: str, settings: ModelSettings) -> tuple[str, str]:
    """Prompt and system message of a part (video, short, image, language, read): the recipe's, else the house's."""
    if part == "read":
        return "", ""
    if part == "language":
        return settings.prompt, settings.system or prompts.SUMMARY_SYSTEM
    usual = prompts.CAPTION_OF_PART[part]
    if settings.backend == "cogvlm2" and part == "video":
        usual = cogvlm2.QUESTION
    return settings.prompt or usual, settings.system


def from_one_process(settings: ModelSettings) -> bool:
    """Whether one process asks for all, as the limits of an endpoint hold for all."""
    return settings.backend in _ASKED_FROM_ONE_PROCESS


def adapted_base(model: str) -> tuple[str, str | None] | None:
    """Base and its revision, where `model` is a local folder with a LoRA adapter alone, as `curate captioner train`
    writes it; None for a whole model."""
    said = Path(model) / "adapter_config.json"
    if not said.is_file():
        return None
    config = json.loads(said.read_text())
    return config["base_model_name_or_path"], config.get("revision")


def _weights_hash(folder: Path) -> str:
    """Of an adapter's folder, that of the model which it changes too, where it is a folder."""
    base, _ = adapted_base(str(folder)) or ("", None)
    return "-".join(folder_hash(one) for one in (folder, Path(base)) if one == folder or (base and one.is_dir()))


def folder_hash(folder: Path) -> str:
    """sha256 over names and contents of all files of a folder, 24 hex digits; large ones are read once per process."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    stamps = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
    return _hash_files(folder, stamps)


@lru_cache(maxsize=32)
def _hash_files(folder: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in stamps:
        digest.update(Path(name).relative_to(folder).as_posix().encode())
        with Path(name).open("rb") as file:
            for block in iter(partial(file.read, 1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:24]


def _factory(name: str) -> Any:
    """What `module:factory` names. Raises RecipeError when there is no such thing."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise RecipeError(f"captions: {name!r} is no module:factory: {error}") from error
