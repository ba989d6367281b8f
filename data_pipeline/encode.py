"""Kept clips become latents: sampled frames, straight from the source's span, through the variant's autoencoder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox import shape
from cogvideox.autoencoder import Autoencoder, encoder, fused, layers, model, posterior, stream, winograd
from cogvideox.autoencoder.posterior import Posterior
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.variants import VARIANTS, Variant
from cogvideox.weights import load_autoencoder, toy_autoencoder_folder
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.recipe import Bucket, EncodeSettings
from groundwork import colour, container, instants, media
from groundwork.errors import RecipeError
from groundwork.media import Frames
from groundwork.records import Latent
from groundwork.storage import open_storage


@dataclass(frozen=True)
class EncodeJob:
    """A clip to encode: `bucket.num_frames` pictures at `fps` from `start_seconds` of its video, and its captions,
    the default one first."""

    clip_id: str
    start_seconds: float
    fps: float
    bucket: Bucket
    captions: tuple[str, ...]

    @property
    def key(self) -> str:
        """What the latent is stored under, within a stage fingerprint. Captions are embedded apart."""
        return short_hash(self.clip_id, self.bucket.folder, self.fps)


@dataclass(frozen=True)
class ClipEncoder:
    """A variant's autoencoder, and what is kept of its answers; a clip's bytes do not depend on its neighbours.

    `settings.batch_pixels` clips at once are always the same number for a bucket: a batch that is not full is filled
    up. `fingerprint` seeds the samples.
    """

    variant: Variant
    autoencoder: Autoencoder
    settings: EncodeSettings
    fingerprint: str = ""
    device: str = "cpu"

    def batch_clips(self, bucket: Bucket) -> int:
        """Clips of a bucket that go through the autoencoder at once."""
        return max(1, self.settings.batch_pixels // (bucket.num_frames * bucket.height * bucket.width))

    def encode(self, path: str | Path, job: EncodeJob) -> Latent:
        """Decode one clip's frames and encode them. Raises MediaError when they cannot be read."""
        return self.encode_batch([(job, decode(path, job))])[0]

    @torch.inference_mode()
    def encode_batch(self, clips: Sequence[tuple[EncodeJob, Frames]]) -> list[Latent]:
        """Clips of one bucket as rows without text: latents x scale factor, bfloat16. ValueError for too many."""
        full = self.batch_clips(clips[0][0].bucket)
        if len(clips) > full:
            raise ValueError(f"{len(clips)} clips are more than a batch of {full}")
        frames = np.stack([frames for _, frames in clips] + [clips[-1][1]] * (full - len(clips)))
        pixels = rearrange(torch.from_numpy(frames).to(self.device), "b t h w c -> b c t h w").float() / 127.5 - 1.0
        answer = self.autoencoder.encode(pixels.to(next(self.autoencoder.parameters()).dtype))
        return [self._row(job, answer, number) for number, (job, _) in enumerate(clips)]

    def _row(self, job: EncodeJob, answer: Posterior, number: int) -> Latent:
        one = Posterior(answer.mean[number].float(), answer.log_variance[number].float())
        kind, scale = self.settings.latent, self.variant.scale_factor
        latent = (one.sample(_generator(job, self.fingerprint)) if kind == "sample" else one.mode()) * scale
        variance = bfloat16_bytes(one.log_variance + 2 * math.log(scale)) if kind == "moments" else b""
        return Latent(
            clip_id=job.clip_id,
            latent=bfloat16_bytes(latent),
            latent_shape=list(latent.shape),
            text_embedding=b"",
            text_shape=[],
            tokens=shape.num_video_tokens(
                job.bucket.num_frames,
                job.bucket.height,
                job.bucket.width,
                patch_frames=self.variant.denoiser.patch_frames,
            ),
            caption="",
            log_variance=variance,
        )


def decode(path: str | Path, job: EncodeJob) -> Frames:
    """The clip's frames at its bucket's size and rate. Raises MediaError when they cannot be read."""
    return media.sample_clip(
        path,
        start_seconds=job.start_seconds,
        num_frames=job.bucket.num_frames,
        fps=job.fps,
        height=job.bucket.height,
        width=job.bucket.width,
    )


def bfloat16_bytes(tensor: Float[Tensor, " ..."]) -> bytes:
    """The values as little-endian bfloat16, row-major: two bytes each."""
    return tensor.detach().to("cpu", torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()


def _generator(job: EncodeJob, fingerprint: str) -> torch.Generator:
    """Noise that clip and fingerprint decide, and nothing else."""
    digest = hashlib.sha256(f"{fingerprint}/{job.clip_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def variant_named(name: str) -> Variant:
    """The model card. Raises RecipeError that lists the known ones."""
    if name not in VARIANTS:
        raise RecipeError(f"variant {name!r} is not known.", f"Variants: {', '.join(VARIANTS)}.")
    return VARIANTS[name]


def load_encoder(
    variant_name: str, settings: EncodeSettings, *, fingerprint: str = "", device: str = "cpu"
) -> ClipEncoder:
    """Load the variant's autoencoder from the settings' weights folder at any URI; empty: the shipped toy's. One
    thread, so that equal frames give equal bytes wherever they run.

    Raises RecipeError for an unknown variant, WeightsError for a folder that does not fit.
    """
    variant = variant_named(variant_name)
    torch.set_num_threads(1)
    with local_weights(variant, settings.weights) as folder:
        autoencoder = load_autoencoder(folder, device=device, dtype=getattr(torch, settings.precision))
    return ClipEncoder(variant, autoencoder, settings, fingerprint, device)


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


def encode_fingerprint(variant_name: str, settings: EncodeSettings, *, models: Mapping[str, Any]) -> str:
    """Key of what `ClipEncoder` makes: its code, the autoencoder's code and weights, what is kept, batch size."""
    import data_pipeline.encode as own

    reading: tuple[ModuleType, ...] = (own, colour, container, instants, media)
    encoding = (encoder, fused, layers, model, posterior, shape, stream, winograd)
    chosen = settings.model_dump(mode="json", include={"latent", "batch_pixels", "precision"})
    used = {name: models[name] for name in ("autoencoder", "scale_factor")}
    return stage_fingerprint((*reading, *encoding), [variant_name, chosen, used])


@contextmanager
def local_weights(variant: Variant, weights: str) -> Iterator[Path]:
    """The weights folder on this machine. Raises RecipeError where none is named and none ships."""
    with open_storage(weights or _shipped_weights(variant)).local_path() as folder:
        yield folder


def _shipped_weights(variant: Variant) -> str:
    if variant.autoencoder != VARIANTS["toy"].autoencoder:
        hint = "Give the folder of the model: --encode.weights URI"
        raise RecipeError(f"encode.weights is empty, and no autoencoder ships for {variant.name}.", hint)
    return str(toy_autoencoder_folder())
