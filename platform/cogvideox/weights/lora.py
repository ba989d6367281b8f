"""Reads and writes LoRA adapters in the layouts of diffusers and peft; merges them, and takes them out again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser
from cogvideox.weights.denoiser_keys import from_diffusers_key, to_diffusers_key
from cogvideox.weights.files import weights_error
from groundwork.errors import WeightsError

_PREFIXES = ("base_model.model.", "transformer.")
_KEY = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Adapter:
    """Low-rank changes by layer name: weight + scale·up·down, the scale being alpha / rank (rsLoRA: / its root)."""

    down: Mapping[str, Float[Tensor, "rank d_in"]]
    up: Mapping[str, Float[Tensor, "d_out rank"]]
    scale: Mapping[str, float]


class MergedAdapter:
    """An adapter inside a denoiser's weights; `unmerge` puts the former weights back, bit for bit.

    The former weights wait on the CPU, since subtracting in half precision would not give them back.
    """

    def __init__(self, denoiser: Denoiser, originals: Mapping[str, Tensor]) -> None:
        self._denoiser = denoiser
        self._originals = dict(originals)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restores the weights; a second call does nothing."""
        for layer, original in self._originals.items():
            weight_of(self._denoiser, layer).copy_(original)
        self._originals = {}


def load_lora(path: str | Path) -> Adapter:
    """An adapter file, or the folder that holds one (with peft's adapter_config.json if there is one).

    Raises WeightsError listing every tensor that is not half of a known layer's adapter.
    """
    file = _adapter_file(Path(path))
    try:
        with safe_open(file, framework="pt") as source:
            tensors = {key: source.get_tensor(key) for key in list(source.keys())}
            metadata = source.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} cannot be read: {error}") from None
    sides: dict[str, dict[str, Tensor]] = {"A": {}, "B": {}}
    alphas: dict[str, float] = {}
    problems: list[str] = []
    for key, tensor in tensors.items():
        name = _strip(key)
        match = _KEY.match(name)
        layer = _layer(match["layer"] if match else name.removesuffix(".alpha"))
        if layer is None or not (match or name.endswith(".alpha")):
            problems.append(f"superfluous: {key}")
        elif match:
            sides[match["side"]][layer] = tensor
        else:
            alphas[layer] = float(tensor)
    problems += [f"only one half: {layer}" for layer in sorted(sides["A"].keys() ^ sides["B"].keys())]
    if problems or not sides["A"]:
        raise weights_error(file, problems or ["no LoRA tensors"])
    settings = _settings(file, metadata)
    alpha, power = settings.get("lora_alpha"), 0.5 if settings.get("use_rslora") else 1.0
    scale = {
        layer: float(alphas.get(layer, down.shape[0] if alpha is None else alpha)) / down.shape[0] ** power
        for layer, down in sides["A"].items()
    }
    return Adapter(MappingProxyType(sides["A"]), MappingProxyType(sides["B"]), MappingProxyType(scale))


def save_lora(adapter: Adapter, folder: str | Path) -> Path:
    """Writes pytorch_lora_weights.safetensors, which diffusers' `load_lora_weights` reads; returns folder.

    All layers must have one rank and scale. The settings lie inside, as diffusers itself writes them.
    """
    folder = Path(folder)
    ranks, scales = {down.shape[0] for down in adapter.down.values()}, set(adapter.scale.values())
    if len(ranks) != 1 or len(scales) != 1:
        raise ValueError(f"ranks {sorted(ranks)}, scales {sorted(scales)}: one of each can be written")
    published = {layer: to_diffusers_key(f"{layer}.weight").removesuffix(".weight") for layer in adapter.down}
    (rank,), (scale,) = ranks, scales
    # Ends of names that are the same in every block, as people write them.
    targets = sorted({name.split(".", 2)[2] for name in published.values()})
    settings = {"r": rank, "lora_alpha": scale * rank, "target_modules": targets}
    tensors = {
        f"transformer.{published[layer]}.lora_{side}.weight": half[layer].detach().to("cpu").contiguous()
        for side, half in (("A", adapter.down), ("B", adapter.up))
        for layer in published
    }
    folder.mkdir(parents=True, exist_ok=True)
    metadata = {f"transformer.{name}": value for name, value in settings.items()}
    save_file(
        tensors,
        folder / "pytorch_lora_weights.safetensors",
        metadata={"format": "pt", "lora_adapter_metadata": json.dumps(metadata, sort_keys=True)},
    )
    return folder


@torch.no_grad()
def merge_lora(denoiser: Denoiser, adapter: Adapter, *, strength: float = 1.0) -> MergedAdapter:
    """Adds strength·scale·up·down to the weights, in float32; returns what takes it out again.

    Raises WeightsError, and changes nothing, when the adapter does not fit the denoiser.
    """
    changes = {}
    problems = []
    for layer, down in adapter.down.items():
        up = adapter.up[layer]
        try:
            weight = weight_of(denoiser, layer)
        except AttributeError:
            problems.append(f"superfluous: {layer} is not in this denoiser")
            continue
        if (up.shape[0], down.shape[1]) != tuple(weight.shape) or up.shape[1] != down.shape[0]:
            problems.append(f"misshapen: {layer} is {list(up.shape)}·{list(down.shape)}, must be {list(weight.shape)}")
            continue
        changes[layer] = (up, down)
    if problems:
        raise WeightsError("the adapter does not fit\n" + "\n".join(f"  - {problem}" for problem in problems))
    originals = {}
    for layer, (up, down) in changes.items():
        weight = weight_of(denoiser, layer)
        originals[layer] = weight.detach().to("cpu", copy=True)
        factor = strength * adapter.scale[layer]
        change = factor * (up.to(weight.device, torch.float32) @ down.to(weight.device, torch.float32))
        weight.copy_(weight.float() + change)
    return MergedAdapter(denoiser, originals)


def weight_of(denoiser: Denoiser, layer: str) -> Tensor:
    """The weight matrix of a linear layer by its name."""
    module: nn.Module = denoiser.get_submodule(layer)
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight


def _layer(published: str) -> str | None:
    """Our name of diffusers' layer, None for a layer that no CogVideoX transformer has."""
    try:
        return from_diffusers_key(f"{published}.weight").removesuffix(".weight")
    except KeyError:
        return None


def _strip(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _adapter_file(path: Path) -> Path:
    if path.is_file():
        return path
    for name in ("pytorch_lora_weights.safetensors", "adapter_model.safetensors"):
        if (path / name).is_file():
            return path / name
    raise WeightsError(f"{path} holds no pytorch_lora_weights.safetensors and no adapter_model.safetensors")


def _settings(file: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """peft's settings, common to all layers: from its configuration beside the file, or diffusers' metadata inside.

    Raises WeightsError for what would scale layers in a way that we do not follow.
    """
    beside = file.parent / "adapter_config.json"
    text = beside.read_text() if beside.is_file() else metadata.get("lora_adapter_metadata", "{}")
    settings = {name.removeprefix("transformer."): value for name, value in json.loads(text).items()}
    unknown = [name for name in ("alpha_pattern", "use_dora", "lora_bias") if settings.get(name)]
    if unknown:
        raise weights_error(file, [f"not supported: {name}={settings[name]}" for name in unknown])
    return settings
