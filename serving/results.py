"""Where a job's files lie in the results storage, and a latent as bytes with its sha256."""

from __future__ import annotations

import hashlib

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from serving.jobs.job import Lease


def folder(job_id: str) -> str:
    """All that belongs to a job lies here."""
    return f"jobs/{job_id}"


def state_folder(job_id: str) -> str:
    """Sampler states, needed until the latent is there."""
    return f"{folder(job_id)}/states"


def state_file(lease: Lease, *, step: int) -> str:
    """One file per lease and step: a worker that was taken for dead cannot overwrite its successor's."""
    return f"{state_folder(lease.job_id)}/epoch-{lease.epoch:06d}-step-{step:04d}.safetensors"


def latent_file(job_id: str) -> str:
    """The finished latent, as the autoencoder takes it."""
    return f"{folder(job_id)}/latent.safetensors"


def video_file(job_id: str) -> str:
    """The finished mp4."""
    return f"{folder(job_id)}/video.mp4"


def pack_latent(latent: Float[Tensor, "b c t h w"]) -> tuple[bytes, str]:
    """A safetensors file, and the sha256 of the numbers alone (row-major, little endian)."""
    latent = latent.detach().cpu().contiguous()
    numbers = latent.view(torch.uint8).numpy().tobytes()
    return save({"latent": latent}), hashlib.sha256(numbers).hexdigest()


def unpack_latent(data: bytes) -> Float[Tensor, "b c t h w"]:
    """The inverse of `pack_latent`."""
    latent: Tensor = load(data)["latent"]
    return latent
