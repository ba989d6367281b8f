"""Layers of a denoiser compute in another way, with the same weights: products in 8 bits, code that is compiled."""

from __future__ import annotations

import torch
from torch import nn

from cogvideox.denoiser import Denoiser
from cogvideox.denoiser.block import Block
from groundwork.errors import RecipeError

_FLOAT8_CAPABILITY = (8, 9)  # Ada and Hopper: the first with products in 8 bits
_MULTIPLE = 16  # sizes that such products take


def apply_float8(denoiser: Denoiser) -> None:
    """Products of the layers' linear maps, forward and backward, in float8 with a scale per tensor (torchao).

    Weights stay float32 parameters of the same names. Without a GPU the rounding is emulated, so that the same recipe
    runs, slower. Raises RecipeError without torchao, or on a GPU that has no such products.
    """
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        hint = "pip install 'cogvideox-platform[float8]', or --engine.precision bfloat16"
        raise RecipeError("engine.precision float8: torchao is not installed.", hint) from error
    on_gpu = torch.cuda.is_available()
    if on_gpu and torch.cuda.get_device_capability() < _FLOAT8_CAPABILITY:
        found = torch.cuda.get_device_name()
        raise RecipeError(f"engine.precision float8: {found} has no such products.", "--engine.precision bfloat16")
    config = Float8LinearConfig(emulate=not on_gpu)
    for block in layers(denoiser):
        convert_to_float8_training(block, module_filter_fn=_takes_float8, config=config)


def apply_compile(denoiser: Denoiser) -> None:
    """Compile what a layer does to tokens one by one: projections with their norms and rotation, and the feed-forward.

    Attention and what knows the row's borders stay as they are: so one compilation serves packs of every length, number
    of clips and size.
    """
    for block in layers(denoiser):
        # In place of the methods, not around the layers: names of parameters stay.
        block.attention.project = torch.compile(block.attention.project, dynamic=True)  # type: ignore[method-assign]
        block.feed_forward.forward = torch.compile(block.feed_forward.forward, dynamic=True)  # type: ignore[method-assign]


def layers(denoiser: Denoiser) -> list[Block]:
    """The transformer's layers."""
    return [block for block in denoiser.blocks if isinstance(block, Block)]


def _takes_float8(layer: nn.Module, _: str) -> bool:
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:  # an adapter's layer computes by itself
        return False
    return layer.in_features % _MULTIPLE == 0 and layer.out_features % _MULTIPLE == 0
