"""Kept clips become latents and text embeddings: sampled frames through the variant's autoencoder and text encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox import shape
from cogvideox.autoencoder import Autoencoder, encoder, layers, model, posterior, stream
from cogvideox.text_encoder import HashTextEncoder, TextEncoder
from cogvideox.variants import VARIANTS, Variant
from cogvideox.weights import load_autoencoder, load_text_encoder, toy_autoencoder_folder
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.recipe import Bucket
from groundwork import colour, container, instants, media
from groundwork.errors import RecipeError
from groundwork.records import Latent
from groundwork.storage import open_storage


@dataclass(frozen=True)
class EncodeJob:
    """A clip to encode: `bucket.num_frames` pictures at `fps` from `start_seconds` of its video, and its caption."""

    clip_id: str
    start_seconds: float
    fps: float
    bucket: Bucket
    caption: str

    @property
    def key(self) -> str:
        """What the artefact is stored under, within a stage fingerprint."""
        return short_hash(self.clip_id, self.bucket.folder, self.fps, self.caption)


@dataclass(frozen=True)
class ClipEncoder:
    """The loaded models of a variant; `encode` is deterministic (the posterior's mode, one clip at a time)."""

    variant: Variant
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    device: str = "cpu"

    def encode(self, path: str | Path, job: EncodeJob) -> Latent:
        """Decode the clip's frames and encode them. Raises MediaError when they cannot be read."""
        frames = media.sample_clip(
            path,
            start_seconds=job.start_seconds,
            num_frames=job.bucket.num_frames,
            fps=job.fps,
            height=job.bucket.height,
            width=job.bucket.width,
        )
        return self.encode_frames(torch.from_numpy(frames), job)

    @torch.inference_mode()
    def encode_frames(self, frames: UInt8[Tensor, "t h w c"], job: EncodeJob) -> Latent:
        """Frames and caption of one clip as a row: latent x scale factor and text embedding, both bfloat16."""
        pixels = rearrange(frames.to(self.device), "t h w c -> 1 c t h w").float() / 127.5 - 1.0
        latent = self.autoencoder.encode(pixels).mode()[0] * self.variant.scale_factor
        text = self.text_encoder.encode([job.caption])[0]
        return Latent(
            clip_id=job.clip_id,
            latent=bfloat16_bytes(latent),
            latent_shape=list(latent.shape),
            text_embedding=bfloat16_bytes(text),
            text_shape=list(text.shape),
            tokens=shape.num_video_tokens(
                job.bucket.num_frames,
                job.bucket.height,
                job.bucket.width,
                patch_frames=self.variant.denoiser.patch_frames,
            ),
            caption=job.caption,
        )


def bfloat16_bytes(tensor: Float[Tensor, " ..."]) -> bytes:
    """The values as little-endian bfloat16, row-major: two bytes each."""
    return tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()


def variant_named(name: str) -> Variant:
    """The model card. Raises RecipeError that lists the known ones."""
    if name not in VARIANTS:
        raise RecipeError(f"variant {name!r} is not known.", f"Variants: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def load_encoder(variant_name: str, *, weights: str, device: str = "cpu") -> ClipEncoder:
    """Load the variant's autoencoder (float32 on a CPU) and text encoder from a weights folder at any URI; empty: the
    shipped toy's. One thread, so that equal frames give equal bytes wherever they run.

    Raises RecipeError for an unknown variant, WeightsError for a folder that does not fit.
    """
    variant = variant_named(variant_name)
    torch.set_num_threads(1)
    with _local_weights(variant, weights) as folder:
        autoencoder = load_autoencoder(folder, device=device, dtype=torch.float32)
        text_encoder = load_text_encoder(folder, variant=variant, device=device, too_long="warn")
    return ClipEncoder(variant, autoencoder, text_encoder, device)


def models_used(variant_name: str, *, weights: str) -> dict[str, Any]:
    """What the latents come from: sha256 of each weights file of the autoencoder, text encoder, scale factor.

    Nothing is loaded. Raises RecipeError for an unknown variant, StorageError when the weights cannot be read.
    """
    variant = variant_named(variant_name)
    storage = open_storage(weights or _shipped_weights(variant))
    names = storage.list()
    inner = "vae/" if any(name.startswith("vae/") for name in names) else ""
    autoencoder = {
        name.removeprefix(inner): storage.checksum(name)
        for name in names
        if name.startswith(inner) and name.endswith(".safetensors")
    }
    if variant.text.kind == "hash":
        text = HashTextEncoder(variant.text).fingerprint
    else:
        parts = [name for name in names if name.startswith(("text_encoder/", "tokenizer/"))]
        text = "t5-" + short_hash([(name, storage.checksum(name)) for name in parts])
    return {"autoencoder": autoencoder, "text_encoder": text, "scale_factor": variant.scale_factor}


def encode_fingerprint(variant_name: str, *, models: Mapping[str, Any]) -> str:
    """Key of what `ClipEncoder` makes: its code, the autoencoder's code, and the models used."""
    import data_pipeline.encode as own

    decoding = (colour, container, instants, media)
    code: tuple[ModuleType, ...] = (own, *decoding, encoder, layers, model, posterior, shape, stream)
    return stage_fingerprint(code, [variant_name, models])


@contextmanager
def _local_weights(variant: Variant, weights: str) -> Iterator[Path]:
    with open_storage(weights or _shipped_weights(variant)).local_path() as folder:
        yield folder


def _shipped_weights(variant: Variant) -> str:
    if variant.autoencoder != VARIANTS["toy"].autoencoder:
        hint = "Give the folder of the model: --encode.weights URI"
        raise RecipeError(f"encode.weights is empty, and no autoencoder ships for {variant.name}.", hint)
    return str(toy_autoencoder_folder())
