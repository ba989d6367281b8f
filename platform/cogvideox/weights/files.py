"""Reads and writes the tensor files of one component's folder: safetensors, sharded or not, never half a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from groundwork.errors import WeightsError

STEM = "diffusion_pytorch_model"
_MAX_SHARD_BYTES = 5_000_000_000  # as diffusers splits


@dataclass(frozen=True)
class Naming:
    """How a module's tensors are called and shaped in a published layout."""

    published_name: Callable[[str], str]
    published_shape: Callable[[str, tuple[int, ...]], tuple[int, ...]]


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A component's JSON configuration. WeightsError when it is missing or not JSON."""
    path = folder / name
    try:
        config = json.loads(path.read_text())
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist", "give the folder of a component in the diffusers layout") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise WeightsError(f"{path} holds a {type(config).__name__}: must be a JSON object")
    return config


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(value, indent=2) + "\n")
    os.replace(partial, path)


def load_into(
    module: nn.Module,
    folder: Path,
    *,
    naming: Naming,
    device: torch.device | str,
    dtype: torch.dtype | None,
    allow_pickle: bool = False,
) -> None:
    """Fills a module built on the meta device from `folder`, tensor by tensor, straight to `device` and `dtype`.

    Raises one WeightsError that lists every missing, superfluous, misshapen or unreadable tensor.
    """
    expected = {naming.published_name(name): name for name in module.state_dict()}
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    problems: list[str] = []
    loaded: dict[str, Tensor] = {}
    seen: set[str] = set()
    for published, read in _tensors(folder, device=device, allow_pickle=allow_pickle, problems=problems):
        seen.add(published)
        if published not in expected:
            problems.append(f"superfluous: {published}")
            continue
        name = expected[published]
        try:
            tensor = read()
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            problems.append(f"unreadable: {published}: {error}")
            continue
        shape = naming.published_shape(name, shapes[name])
        if tuple(tensor.shape) != shape:
            problems.append(f"misshapen: {published} is {list(tensor.shape)}, must be {list(shape)}")
            continue
        if not tensor.is_floating_point():
            problems.append(f"not a floating-point tensor: {published} is {tensor.dtype}")
            continue
        loaded[name] = tensor.to(device=device, dtype=dtype).reshape(shapes[name])
    problems += [f"missing: {published}" for published in expected if published not in seen]
    if problems:
        raise weights_error(folder, problems)
    module.load_state_dict(loaded, assign=True)


def weights_error(folder: Path, problems: list[str]) -> WeightsError:
    """One error for all problems of a folder."""
    lines = "\n".join(f"  - {problem}" for problem in problems)
    return WeightsError(f"{folder}: {len(problems)} problem(s)\n{lines}")


def save_tensors(
    tensors: Mapping[str, Tensor], folder: Path, *, max_shard_bytes: int = _MAX_SHARD_BYTES, stem: str = STEM
) -> None:
    """Writes tensors under published names, in shards above `max_shard_bytes`; each file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(tensors, max_shard_bytes)
    names = (
        [f"{stem}.safetensors"]
        if len(shards) == 1
        else [f"{stem}-{index + 1:05d}-of-{len(shards):05d}.safetensors" for index in range(len(shards))]
    )
    for name, shard in zip(names, shards, strict=True):
        contiguous = {key: tensor.detach().contiguous().cpu() for key, tensor in shard.items()}
        partial = folder / f"{name}.partial"
        save_file(contiguous, partial, metadata={"format": "pt"})
        os.replace(partial, folder / name)
    index_path = folder / f"{stem}.safetensors.index.json"
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        total = sum(tensor.nbytes for tensor in tensors.values())
        write_json(index_path, {"metadata": {"total_size": total}, "weight_map": weight_map})
    _remove_stale(folder, stem=stem, keep={*names, *({index_path.name} if len(shards) > 1 else ())})


def _remove_stale(folder: Path, *, stem: str, keep: set[str]) -> None:
    """Shards of an earlier save would otherwise be read with the new ones."""
    for path in folder.glob(f"{stem}*.safetensors*"):
        if path.name not in keep:
            path.unlink()


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


@dataclass(frozen=True)
class _Reader:
    """One tensor of an open file, read when it is called."""

    name: str
    source: Any

    def __call__(self) -> Tensor:
        tensor: Tensor = self.source.get_tensor(self.name)
        return tensor


def _tensors(
    folder: Path, *, device: torch.device | str, allow_pickle: bool, problems: list[str]
) -> Iterable[tuple[str, Callable[[], Tensor]]]:
    """Name and reader of every tensor in the folder's files; what cannot be opened becomes a problem."""
    for path in _files(folder, problems):
        if path.suffix != ".safetensors":
            yield from _pickled(path, allow_pickle=allow_pickle, problems=problems)
            continue
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in list(file.keys()):
                    yield name, _Reader(name, file)
        except (SafetensorError, OSError) as error:
            problems.append(f"unreadable file {path.name}: {error} (truncated?)")


def _pickled(path: Path, *, allow_pickle: bool, problems: list[str]) -> Iterable[tuple[str, Callable[[], Tensor]]]:
    if not allow_pickle:
        problems.append(f"{path.name} is pickled and may run code when read: pass allow_pickle=True to trust it")
        return
    # weights_only refuses everything but tensors and plain containers, even where pickles are allowed.
    tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    for name, tensor in tensors.items():
        yield name, tensor.clone


def _files(folder: Path, problems: list[str]) -> list[Path]:
    """The tensor files of a folder, in the order diffusers looks for them."""
    for index in sorted(folder.glob("*.index.json")):
        names = sorted(set(read_config(folder, index.name).get("weight_map", {}).values()))
        absent = [name for name in names if not (folder / name).is_file()]
        problems += [f"missing file {name}, which {index.name} names" for name in absent]
        return [folder / name for name in names if name not in absent]
    for pattern in (f"{STEM}.safetensors", "*.safetensors", f"{STEM}.bin", "*.bin", "*.pt"):
        if files := sorted(folder.glob(pattern)):
            return files
    problems.append("no weights: neither *.safetensors nor *.bin is here")
    return []
