"""Translates tensor names, shapes and configuration of the denoiser between ours and diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from cogvideox.denoiser import DenoiserConfig
from cogvideox.shape import TEMPORAL_COMPRESSION
from cogvideox.weights.files import Naming

_TOP = {
    "patch_projection": "patch_embed.proj",
    "text_projection": "patch_embed.text_proj",
    "learned_positions": "patch_embed.pos_embedding",
    "time_embedding.first": "time_embedding.linear_1",
    "time_embedding.second": "time_embedding.linear_2",
    "offset_embedding.first": "ofs_embedding.linear_1",
    "offset_embedding.second": "ofs_embedding.linear_2",
    "final_norm": "norm_final",
    "out_norm": "norm_out.norm",
    "out_modulation": "norm_out.linear",
    "out_projection": "proj_out",
}
_BLOCK = {
    "attention_norm.norm": "norm1.norm",
    "attention_norm.modulation": "norm1.linear",
    "attention.query": "attn1.to_q",
    "attention.key": "attn1.to_k",
    "attention.value": "attn1.to_v",
    "attention.query_norm": "attn1.norm_q",
    "attention.key_norm": "attn1.norm_k",
    "attention.out": "attn1.to_out.0",
    "feed_forward_norm.norm": "norm2.norm",
    "feed_forward_norm.modulation": "norm2.linear",
    "feed_forward.up": "ff.net.0.proj",
    "feed_forward.down": "ff.net.2",
}
_TOP_INVERSE = {published: ours for ours, published in _TOP.items()}
_BLOCK_INVERSE = {published: ours for ours, published in _BLOCK.items()}


def to_diffusers_key(name: str) -> str:
    """`blocks.3.attention.query.weight` to `transformer_blocks.3.attn1.to_q.weight`. KeyError for an unknown name."""
    if name in _TOP:
        return _TOP[name]
    layer, kind = name.rsplit(".", 1)
    if match := re.match(r"blocks\.(\d+)\.(.+)$", layer):
        return f"transformer_blocks.{match[1]}.{_BLOCK[match[2]]}.{kind}"
    return f"{_TOP[layer]}.{kind}"


def from_diffusers_key(key: str) -> str:
    """The inverse of `to_diffusers_key`. KeyError for a key that no CogVideoX transformer has."""
    if key in _TOP_INVERSE:
        return _TOP_INVERSE[key]
    layer, kind = key.rsplit(".", 1)
    if match := re.match(r"transformer_blocks\.(\d+)\.(.+)$", layer):
        return f"blocks.{match[1]}.{_BLOCK_INVERSE[match[2]]}.{kind}"
    return f"{_TOP_INVERSE[layer]}.{kind}"


def naming(config: DenoiserConfig) -> Naming:
    """Names and shapes in the diffusers layout: a convolution as patch projection in 1.0, a batched position table."""

    def published_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if name == "patch_projection.weight" and config.patch_frames == 1:
            return (shape[0], config.in_channels, config.patch_size, config.patch_size)
        return (1, *shape) if name == "learned_positions" else shape

    return Naming(to_diffusers_key, published_shape)


def config_from_diffusers(config: Mapping[str, Any]) -> DenoiserConfig:
    """Reads diffusers' `transformer/config.json`. ValueError for a switch that no published CogVideoX uses."""
    fixed = {
        "activation_fn": "gelu-approximate",
        "timestep_activation_fn": "silu",
        "attention_bias": True,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_elementwise_affine": True,
    }
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key}={config[key]!r}: must be {value!r}, as in every published CogVideoX")
    rotary, learned = (config.get(f"use_{kind}_positional_embeddings", False) for kind in ("rotary", "learned"))
    if learned and not rotary:
        raise ValueError("use_learned_positional_embeddings without rotary ones: no published CogVideoX does so")
    compression = config.get("temporal_compression_ratio", TEMPORAL_COMPRESSION)
    return DenoiserConfig(
        num_layers=config["num_layers"],
        num_heads=config["num_attention_heads"],
        head_width=config.get("attention_head_dim", 64),
        in_channels=config.get("in_channels", 16),
        out_channels=config.get("out_channels") or config.get("in_channels", 16),
        patch_frames=config.get("patch_size_t") or 1,
        patch_size=config.get("patch_size", 2),
        text_width=config.get("text_embed_dim", 4096),
        max_text_tokens=config.get("max_text_seq_length", 226),
        time_width=config.get("time_embed_dim", 512),
        offset_width=config.get("ofs_embed_dim"),
        positions="rope+learned" if learned else "rope" if rotary else "sincos",
        sample_frames=(config.get("sample_frames", 49) - 1) // compression + 1,
        sample_height=config.get("sample_height", 60),
        sample_width=config.get("sample_width", 90),
        spatial_interpolation=config.get("spatial_interpolation_scale", 1.875),
        temporal_interpolation=config.get("temporal_interpolation_scale", 1.0),
        norm_eps=config.get("norm_eps", 1e-5),
    )


def config_to_diffusers(config: DenoiserConfig) -> dict[str, Any]:
    """Writes diffusers' `transformer/config.json`. Its `sample_frames` counts pixel frames, ours latent frames."""
    return {
        "_class_name": "CogVideoXTransformer3DModel",
        "_diffusers_version": "0.42.1",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": config.head_width,
        "dropout": 0.0,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "max_text_seq_length": config.max_text_tokens,
        "norm_elementwise_affine": True,
        "norm_eps": config.norm_eps,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "ofs_embed_dim": config.offset_width,
        "out_channels": config.out_channels,
        "patch_bias": True,
        "patch_size": config.patch_size,
        "patch_size_t": config.patch_frames if config.patch_frames > 1 else None,
        "sample_frames": (config.sample_frames - 1) * TEMPORAL_COMPRESSION + 1,
        "sample_height": config.sample_height,
        "sample_width": config.sample_width,
        "spatial_interpolation_scale": config.spatial_interpolation,
        "temporal_compression_ratio": TEMPORAL_COMPRESSION,
        "temporal_interpolation_scale": config.temporal_interpolation,
        "text_embed_dim": config.text_width,
        "time_embed_dim": config.time_width,
        "timestep_activation_fn": "silu",
        "use_learned_positional_embeddings": config.positions == "rope+learned",
        "use_rotary_positional_embeddings": config.positions != "sincos",
    }
