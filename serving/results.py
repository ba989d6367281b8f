"""Where a job's files lie in the results storage, and a latent as bytes with its sha256."""

from __future__ import annotations

import hashlib
import json

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from cogvideox.sampler import SamplerState
from serving.fingerprint import Maker
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


def reference_file(job_id: str) -> str:
    """The picture or video that the job starts from, byte for byte as it came."""
    return f"{folder(job_id)}/reference"


def preview_file(job_id: str, step: int) -> str:
    """A small JPEG of what the video looks like after a step."""
    return f"{folder(job_id)}/previews/step-{step:04d}.jpg"


def thumbnail_file(job_id: str) -> str:
    """A small picture from the middle of the finished video."""
    return f"{folder(job_id)}/thumbnail.webp"


def spritesheet_file(job_id: str) -> str:
    """Small pictures from all over the finished video, row by row in one."""
    return f"{folder(job_id)}/spritesheet.jpg"


def pack_latent(latent: Float[Tensor, "b c t h w"], *, fingerprint: str = "") -> tuple[bytes, str]:
    """A safetensors file, which says what it was made with, and the sha256 of the numbers alone (row-major, little
    endian)."""
    latent = latent.detach().cpu().contiguous()
    numbers = latent.view(torch.uint8).numpy().tobytes()
    metadata = {"fingerprint": fingerprint} if fingerprint else None
    return save({"latent": latent}, metadata=metadata), hashlib.sha256(numbers).hexdigest()


def unpack_latent(data: bytes) -> Float[Tensor, "b c t h w"]:
    """The inverse of `pack_latent`."""
    latent: Tensor = load(data)["latent"]
    return latent


def pack_state(state: SamplerState, made_by: list[Maker]) -> bytes:
    """A safetensors file that says what made the state."""
    return state.to_bytes(metadata={"made_by": json.dumps(made_by)})


def unpack_state(data: bytes, *, device: torch.device) -> tuple[SamplerState, list[Maker]]:
    """The inverse of `pack_state`, with tensors on `device`."""
    # safetensors reads the metadata of files, not of bytes: the header is its length in 8 bytes, then JSON.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    made_by = [Maker(*maker) for maker in json.loads(header.get("__metadata__", {}).get("made_by", "[]"))]
    return SamplerState.from_bytes(data, device=device), made_by
