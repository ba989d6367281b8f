"""One row per encoded clip: the VAE latent and the text embedding, as raw bfloat16 bytes with their shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

BUCKET_FOLDER = "{num_frames}x{height}x{width}"
"""Folder of a bucket below `latents/`: pixel frames x height x width, e.g. `latents/17x96x144/`."""


@dataclass(frozen=True)
class Latent:
    """`latent`: bf16, `latent_shape` = [c, t, h, w], already multiplied by the variant's scale factor.

    `text_embedding`: bf16, `text_shape` = [n, d]. `tokens`: video tokens of the clip in the denoiser's row, text not
    counted. `caption` is the text that was embedded. `log_variance`: bf16 of the latent's shape, where the recipe asks
    for moments (`latent` is the mean of a Gaussian then, and this its log-variance, both scaled); else empty.
    `alternatives`: further captions of the clip; their embeddings are rows of `texts/`.
    """

    clip_id: str
    latent: bytes
    latent_shape: list[int]
    text_embedding: bytes
    text_shape: list[int]
    tokens: int
    caption: str
    log_variance: bytes = b""
    alternatives: list[str] = field(default_factory=list)

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            ("clip_id", pa.string()),
            ("latent", pa.large_binary()),
            ("latent_shape", pa.list_(pa.int32())),
            ("text_embedding", pa.large_binary()),
            ("text_shape", pa.list_(pa.int32())),
            ("tokens", pa.int32()),
            ("caption", pa.string()),
            ("log_variance", pa.large_binary()),
            ("alternatives", pa.list_(pa.string())),
        ]
    )
