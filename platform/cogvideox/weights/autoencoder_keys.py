"""Translates tensor names and configuration of the autoencoder between ours and diffusers'."""

import re
from collections.abc import Mapping
from typing import Any

from cogvideox.autoencoder.config import AutoencoderConfig

# (diffusers, ours), applied in order; each pair is its own inverse when read the other way, in reverse order.
_RULES = (
    (r"\b(?:down_blocks|up_blocks)\.(\d+)\.", r"stages.\1."),
    (r"\bmid_block\.resnets\.", "middle."),
    (r"\bresnets\.", "blocks."),
    (r"\bdownsamplers\.0\.conv\.", "downsample."),
    (r"\bupsamplers\.0\.conv\.", "upsample."),
    (r"\bconv_shortcut\.", "shortcut."),
    (r"\.norm_layer\.", ".norm."),
    (r"\.conv_y\.conv\.", ".scale."),
    (r"\.conv_b\.conv\.", ".shift."),
    (r"\b(conv_in|conv_out|conv1|conv2)\.conv\.", r"\1."),
)
_INVERSE_RULES = (
    (r"\b(conv_in|conv_out|conv1|conv2)\.", r"\1.conv."),
    (r"\.(norm\w+)\.norm\.", r".\1.norm_layer."),
    (r"\.(norm\w+)\.scale\.", r".\1.conv_y.conv."),
    (r"\.(norm\w+)\.shift\.", r".\1.conv_b.conv."),
    (r"\bshortcut\.", "conv_shortcut."),
    (r"\bdownsample\.", "downsamplers.0.conv."),
    (r"\bupsample\.", "upsamplers.0.conv."),
    (r"\bblocks\.", "resnets."),
    (r"\bmiddle\.", "mid_block.resnets."),
    (r"^encoder\.stages\.", "encoder.down_blocks."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
)


def from_diffusers_key(key: str) -> str:
    """``encoder.down_blocks.0.resnets.0.conv1.conv.weight`` to ``encoder.stages.0.blocks.0.conv1.weight``."""
    for pattern, replacement in _RULES:
        key = re.sub(pattern, replacement, key)
    return key


def to_diffusers_key(key: str) -> str:
    """The inverse of ``from_diffusers_key``."""
    for pattern, replacement in _INVERSE_RULES:
        key = re.sub(pattern, replacement, key)
    return key


def config_from_diffusers(config: Mapping[str, Any]) -> AutoencoderConfig:
    """Reads diffusers' ``vae/config.json``. ``ValueError`` for a switch that no published CogVideoX uses."""
    for switch in ("use_quant_conv", "use_post_quant_conv"):
        if config.get(switch):
            raise ValueError(f"{switch}={config[switch]}: must be false, as in every published CogVideoX")
    if config.get("act_fn", "silu") != "silu":
        raise ValueError(f"act_fn={config['act_fn']!r}: must be 'silu'")
    return AutoencoderConfig(
        block_widths=tuple(config["block_out_channels"]),
        layers_per_block=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        pixel_channels=config["in_channels"],
        norm_groups=config["norm_num_groups"],
        norm_eps=config["norm_eps"],
        temporal_compression=int(config["temporal_compression_ratio"]),
    )


def config_to_diffusers(
    config: AutoencoderConfig, *, scale_factor: float, sample_height: int, sample_width: int
) -> dict[str, Any]:
    """Writes diffusers' ``vae/config.json``; height and width (pixels) set the size of its tiles."""
    stages = len(config.block_widths)
    return {
        "_class_name": "AutoencoderKLCogVideoX",
        "_diffusers_version": "0.42.1",
        "act_fn": "silu",
        "block_out_channels": list(config.block_widths),
        "down_block_types": ["CogVideoXDownBlock3D"] * stages,
        "force_upcast": True,
        "in_channels": config.pixel_channels,
        "invert_scale_latents": False,
        "latent_channels": config.latent_channels,
        "latents_mean": None,
        "latents_std": None,
        "layers_per_block": config.layers_per_block,
        "norm_eps": config.norm_eps,
        "norm_num_groups": config.norm_groups,
        "out_channels": config.pixel_channels,
        "sample_height": sample_height,
        "sample_width": sample_width,
        "scaling_factor": scale_factor,
        "shift_factor": None,
        "temporal_compression_ratio": config.temporal_compression,
        "up_block_types": ["CogVideoXUpBlock3D"] * stages,
        "use_post_quant_conv": False,
        "use_quant_conv": False,
    }
