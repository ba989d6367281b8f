"""Converts SAT checkpoints (the layout of CogVideoX's own training code) to the diffusers layout and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cogvideox.denoiser import DenoiserConfig
from cogvideox.denoiser.positions import Grid, sincos_table
from cogvideox.weights.sat_keys import (
    ADALN_ORDER,
    DROPPED,
    LAYER_NAMES,
    TOP_NAMES,
    autoencoder_to_diffusers_key,
    autoencoder_to_sat_key,
)
from groundwork.errors import WeightsError

_PREFIX = "model.diffusion_model."
_QKV, _ADALN = "attention.query_key_value", "mixins.adaln_layer.adaLN_modulations"
_POSITIONS = "mixins.pos_embed.pos_embedding"


def denoiser_to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAT's transformer tensors under diffusers' names: qkv split in three, the 12 modulation chunks sorted in two.

    Tables that are computed and keys of other networks in the same checkpoint (T5, VAE, LoRA) are left out. Raises
    WeightsError listing the names that are none of these.
    """
    published: dict[str, Tensor] = {}
    unknown: list[str] = []
    takes_image = _takes_image(tensors)
    for key, tensor in tensors.items():
        if _PREFIX not in key and key.startswith(("conditioner.", "first_stage_model.", "loss.")):
            continue
        name = key.removeprefix(_PREFIX)
        if "matrix_" in name or any(word in name for word in DROPPED):
            continue
        if name == _POSITIONS:
            # The 2B model stores its fixed sin-cos table here, the image-to-video model a learned one.
            if takes_image:
                published["patch_embed.pos_embedding"] = tensor
        elif not _put(published, name, tensor):
            unknown.append(key)
    if unknown:
        raise WeightsError("not a CogVideoX transformer: unknown tensors\n" + "\n".join(f"  - {k}" for k in unknown))
    return published


def denoiser_to_sat(tensors: Mapping[str, Tensor], config: DenoiserConfig) -> dict[str, Tensor]:
    """The inverse of `denoiser_to_diffusers`; the 2B model's fixed position table is computed anew."""
    sat: dict[str, Tensor] = {}
    top = {published: name for name, published in TOP_NAMES.items()}
    for key, tensor in tensors.items():
        layer, _, kind = key.rpartition(".")
        if layer in top:
            sat[f"{top[layer]}.{kind}"] = tensor
    for index in range(config.num_layers):
        block = f"transformer_blocks.{index}"
        for kind in ("weight", "bias"):
            qkv = [tensors[f"{block}.attn1.to_{name}.{kind}"] for name in "qkv"]
            sat[f"transformer.layers.{index}.{_QKV}.{kind}"] = torch.cat(qkv)
            halves = [tensors[f"{block}.norm{half}.linear.{kind}"].chunk(6) for half in (1, 2)]
            chunks = dict(zip(ADALN_ORDER, [*halves[0], *halves[1]], strict=True))
            sat[f"{_ADALN}.{index}.1.{kind}"] = torch.cat([chunks[position] for position in range(12)])
            for name, published in LAYER_NAMES.items():
                sat[f"{name.format(index)}.{kind}"] = tensors[f"{block}.{published}.{kind}"]
    if "patch_embed.pos_embedding" in tensors:
        sat[_POSITIONS] = tensors["patch_embed.pos_embedding"]
    elif config.positions == "sincos":
        sat[_POSITIONS] = _sincos_with_text(config).to(tensors["patch_embed.proj.weight"].dtype)
    return {_PREFIX + name: tensor for name, tensor in sat.items()}


def autoencoder_to_diffusers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SAT's VAE tensors under diffusers' names; the training loss's networks are left out."""
    return {autoencoder_to_diffusers_key(k): v for k, v in tensors.items() if k.startswith(("encoder.", "decoder."))}


def autoencoder_to_sat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `autoencoder_to_diffusers`."""
    return {autoencoder_to_sat_key(key): tensor for key, tensor in tensors.items()}


def config_of(tensors: Mapping[str, Tensor], *, base: DenoiserConfig) -> DenoiserConfig:
    """`base` with every size that SAT's tensors show."""
    own = {key.removeprefix(_PREFIX): tensor for key, tensor in tensors.items()}
    projection = own["mixins.patch_embed.proj.weight"]
    width = projection.shape[0]
    in_two_frames = projection.ndim == 2
    layers = [int(m[1]) for key in own if (m := re.match(r"transformer\.layers\.(\d+)\.", key))]
    learned = _POSITIONS in own and _takes_image(tensors)
    return replace(
        base,
        num_layers=max(layers) + 1,
        num_heads=width // own["mixins.adaln_layer.query_layernorm_list.0.weight"].shape[0],
        head_width=own["mixins.adaln_layer.query_layernorm_list.0.weight"].shape[0],
        in_channels=projection.shape[1] // 8 if in_two_frames else projection.shape[1],
        patch_frames=2 if in_two_frames else 1,
        text_width=own["mixins.patch_embed.text_proj.weight"].shape[1],
        time_width=own["time_embed.0.weight"].shape[0],
        offset_width=own["ofs_embed.0.weight"].shape[1] if "ofs_embed.0.weight" in own else None,
        positions="rope+learned" if learned else "sincos" if _POSITIONS in own else "rope",
    )


def read_sat(path: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    """Tensors of a SAT file (`mp_rank_00_model_states.pt`, `3d-vae.pt`), which is a pickle.

    Without `allow_pickle` only tensors and plain containers are accepted: nothing in the file can run.
    """
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=not allow_pickle, mmap=True)
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except Exception as error:  # torch raises pickle, zip, runtime and value errors alike for a bad file
        hint = "" if allow_pickle else "if you trust its origin and it holds more than tensors, pass allow_pickle=True"
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}", hint) from error
    for key in ("module", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _put(published: dict[str, Tensor], name: str, tensor: Tensor) -> bool:
    """Adds one SAT tensor under its published names; False when it has none."""
    layer, _, kind = name.rpartition(".")
    if layer in TOP_NAMES:
        published[f"{TOP_NAMES[layer]}.{kind}"] = tensor
        return True
    if match := re.fullmatch(rf"transformer\.layers\.(\d+)\.{re.escape(_QKV)}", layer):
        for part, piece in zip("qkv", tensor.chunk(3), strict=True):
            published[f"transformer_blocks.{match[1]}.attn1.to_{part}.{kind}"] = piece
        return True
    if match := re.fullmatch(rf"{re.escape(_ADALN)}\.(\d+)\.1", layer):
        chunks = tensor.chunk(12)
        for half, positions in ((1, ADALN_ORDER[:6]), (2, ADALN_ORDER[6:])):
            target = f"transformer_blocks.{match[1]}.norm{half}.linear.{kind}"
            published[target] = torch.cat([chunks[position] for position in positions])
        return True
    if match := re.search(r"\.(\d+)(?=\.|$)", layer):
        pattern = layer[: match.start(1)] + "{}" + layer[match.end(1) :]
        if pattern in LAYER_NAMES:
            published[f"transformer_blocks.{match[1]}.{LAYER_NAMES[pattern]}.{kind}"] = tensor
            return True
    return False


def _takes_image(tensors: Mapping[str, Tensor]) -> bool:
    projection = tensors.get(f"{_PREFIX}mixins.patch_embed.proj.weight")
    if projection is None:
        projection = tensors["mixins.patch_embed.proj.weight"]
    channels = projection.shape[1] // 8 if projection.ndim == 2 else projection.shape[1]
    return channels > 16


def _sincos_with_text(config: DenoiserConfig) -> Tensor:
    grid = Grid(config.sample_frames, config.sample_height // 2, config.sample_width // 2)
    table = sincos_table(grid, config, device=torch.device("cpu"))
    return torch.cat((torch.zeros(config.max_text_tokens, config.width), table))[None]
