"""The names of SAT's tensors beside diffusers'."""

from __future__ import annotations

import re

TOP_NAMES = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "ofs_embed.0": "ofs_embedding.linear_1",
    "ofs_embed.2": "ofs_embedding.linear_2",
    "mixins.patch_embed.proj": "patch_embed.proj",
    "mixins.patch_embed.text_proj": "patch_embed.text_proj",
    "transformer.final_layernorm": "norm_final",
    # Not diffusers' `norm_final`, in spite of its name: it is the norm of the output modulation.
    "mixins.final_layer.norm_final": "norm_out.norm",
    "mixins.final_layer.linear": "proj_out",
    "mixins.final_layer.adaLN_modulation.1": "norm_out.linear",
}
LAYER_NAMES = {
    "transformer.layers.{}.attention.dense": "attn1.to_out.0",
    "transformer.layers.{}.mlp.dense_h_to_4h": "ff.net.0.proj",
    "transformer.layers.{}.mlp.dense_4h_to_h": "ff.net.2",
    "transformer.layers.{}.input_layernorm": "norm1.norm",
    "transformer.layers.{}.post_attention_layernorm": "norm2.norm",
    "mixins.adaln_layer.query_layernorm_list.{}": "attn1.norm_q",
    "mixins.adaln_layer.key_layernorm_list.{}": "attn1.norm_k",
}
# SAT's twelve chunks: shift, scale, gate of attention, the same of the feed-forward (video), then all six for text.
# diffusers' norm1 holds the attention's of video and text, norm2 the feed-forward's.
ADALN_ORDER = (0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11)
DROPPED = ("embed_tokens", "freqs_sin", "freqs_cos", "position_embedding")

_AUTOENCODER = (
    (r"\.down\.(\d)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", r".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", r".mid_block.resnets.1."),
    (r"\.nin_shortcut\.", r".conv_shortcut."),
)
_AUTOENCODER_INVERSE = (
    (r"\.down_blocks\.(\d)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up_blocks\.(\d)\.resnets\.", r".up.\1.block."),
    (r"\.up_blocks\.(\d)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.mid_block\.resnets\.0\.", r".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", r".mid.block_2."),
    (r"\.conv_shortcut\.", r".nin_shortcut."),
)
_LAST_STAGE = 3  # SAT counts the decoder's stages backwards


def autoencoder_to_diffusers_key(key: str) -> str:
    """`decoder.up.3.block.0.conv1.conv.weight` to `decoder.up_blocks.0.resnets.0.conv1.conv.weight`."""
    for pattern, replacement in _AUTOENCODER:
        key = re.sub(pattern, replacement, key)
    return _count_backwards(key, "up_blocks")


def autoencoder_to_sat_key(key: str) -> str:
    """The inverse of `autoencoder_to_diffusers_key`."""
    for pattern, replacement in _AUTOENCODER_INVERSE:
        key = re.sub(pattern, replacement, key)
    return _count_backwards(key, "up")


def _count_backwards(key: str, word: str) -> str:
    return re.sub(rf"\.{word}\.(\d)\.", lambda match: f".{word}.{_LAST_STAGE - int(match[1])}.", key)
