"""A denoiser becomes one of which only an adapter, or only named parts, are trained (LoRA, arXiv 2106.09685).

Layers and parameters are named as in weight files, that is as in diffusers: `transformer_blocks.3.attn1.to_q.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.denoiser import Denoiser
from cogvideox.objective import stream_seed
from cogvideox.weights.denoiser_keys import to_diffusers_key
from cogvideox.weights.lora import Adapter
from groundwork.errors import RecipeError
from training.recipe import AdapterSettings, TrainRecipe

_DOWN, _UP = "lora_down", "lora_up"


class LoraLinear(nn.Linear):
    """A frozen linear layer and its low-rank change: x·W + (alpha / rank)·up(down(dropout(x))).

    It starts as the layer itself: `up` is zero. Names of the layer's own parameters stay as they are.
    """

    def __init__(self, layer: nn.Linear, settings: AdapterSettings, *, seed: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.scale, self.dropout = settings.scale, settings.dropout
        bound = 1 / math.sqrt(layer.in_features)  # peft's start: Kaiming, uniform, of slope sqrt(5)
        generator = torch.Generator().manual_seed(seed)
        down = (torch.rand(settings.rank, layer.in_features, generator=generator) * 2 - 1) * bound
        self.lora_down = nn.Parameter(down.to(layer.weight.device))
        self.lora_up = nn.Parameter(torch.zeros(layer.out_features, settings.rank, device=layer.weight.device))

    def forward(self, tokens: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d_out"]:
        """The layer's answer and the adapter's. Dropout draws from torch's own generator, and only where it learns."""
        learns = self.training and torch.is_grad_enabled()
        inner = F.linear(F.dropout(tokens, self.dropout, learns), self.lora_down)
        answer: Tensor = F.linear(tokens, self.weight, self.bias) + self.scale * F.linear(inner, self.lora_up)
        return answer


def choose_trained(denoiser: Denoiser, recipe: TrainRecipe) -> Denoiser:
    """Leave `requires_grad` only where the recipe trains: its adapter, which is put in here, or the named parts.

    Raises RecipeError, with the names there are, where nothing of the denoiser is meant.
    """
    if recipe.adapter.rank:
        denoiser.requires_grad_(requires_grad=False)
        for name in _targets(denoiser, recipe.adapter):
            parent, _, last = name.rpartition(".")
            layer = denoiser.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            seed = stream_seed(recipe.seed, "adapter", name)
            setattr(denoiser.get_submodule(parent), last, LoraLinear(layer, recipe.adapter, seed=seed))
    elif recipe.trainable:
        chosen = 0
        for name, parameter in denoiser.named_parameters():
            parameter.requires_grad_(any(fnmatchcase(to_diffusers_key(name), glob) for glob in recipe.trainable))
            chosen += parameter.requires_grad
        if not chosen:
            known = sorted({_without_numbers(to_diffusers_key(name)) for name, _ in denoiser.named_parameters()})
            raise RecipeError(
                f"trainable: no parameter is meant by {', '.join(recipe.trainable)}.", f"There are: {', '.join(known)}."
            )
    return denoiser


def trained_names(denoiser: nn.Module) -> list[str]:
    """Names of the parameters that are trained."""
    return [name for name, parameter in denoiser.named_parameters() if parameter.requires_grad]


def read_adapter(denoiser: Denoiser, settings: AdapterSettings, read: Callable[[str], Tensor], *, kind: str) -> Adapter:
    """The adapter of a checkpoint: `read("<kind>/<parameter>")` gives its halves; `denoiser` is a plain one."""
    layers = _targets(denoiser, settings)
    return Adapter(
        down={layer: read(f"{kind}/{layer}.{_DOWN}") for layer in layers},
        up={layer: read(f"{kind}/{layer}.{_UP}") for layer in layers},
        scale=dict.fromkeys(layers, settings.scale),
    )


def _targets(denoiser: Denoiser, settings: AdapterSettings) -> list[str]:
    """Our names of the layers that the adapter changes: as in peft, a target is the end of a layer's name."""
    layers = dict(_layers(denoiser))
    unknown = [
        target for target in settings.targets if not any(_is_meant(published, target) for published in layers.values())
    ]
    if unknown or not settings.targets:
        known = sorted({published.split(".", 2)[2] for published in layers.values()})
        raise RecipeError(
            f"adapter.targets: no layer is meant by {', '.join(unknown) or 'an empty list'}.",
            f"There are: {', '.join(known)}.",
        )
    return [
        name for name, published in layers.items() if any(_is_meant(published, target) for target in settings.targets)
    ]


def _layers(denoiser: Denoiser) -> Iterator[tuple[str, str]]:
    """Our name and the published one of every linear layer inside the blocks."""
    for name, module in denoiser.named_modules():
        if isinstance(module, nn.Linear) and name.startswith("blocks."):
            yield name, to_diffusers_key(f"{name}.weight").removesuffix(".weight")


def _is_meant(published: str, target: str) -> bool:
    return published == target or published.endswith(f".{target}")


def _without_numbers(published: str) -> str:
    first, *rest = published.split(".")
    return ".".join([first, "*", *rest[1:]]) if rest and rest[0].isdigit() else published
