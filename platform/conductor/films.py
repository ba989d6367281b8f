"""A dataset's clips become pictures to look at: the footage as trained on, and its way through the autoencoder."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cogvideox.autoencoder import Autoencoder
from cogvideox.variants import Variant
from groundwork import media
from groundwork.errors import InputError
from groundwork.media import Frames
from groundwork.records import Clip, Latent, Video, from_table
from groundwork.storage import Storage


@dataclass(frozen=True)
class Film:
    """One kept clip: the footage, its reconstruction, and how close they are. Frames are uint8 `[t, h, w, 3]`."""

    clip_id: str
    uri: str
    start_seconds: float
    caption: str
    footage: Frames
    reconstruction: Frames

    @property
    def psnr(self) -> float:
        """Peak signal-to-noise ratio of the reconstruction, dB."""
        return psnr(self.footage, self.reconstruction)


def first_caption(dataset: Storage) -> str:
    """The caption of the clip that `films` puts first."""
    return _ordered(dataset)[0].caption


def films(dataset: Storage, *, variant: Variant, autoencoder: Autoencoder, limit: int) -> list[Film]:
    """The first `limit` encoded clips, longest bucket first, then by source and start."""
    return [_film(entry, variant, autoencoder) for entry in _ordered(dataset)[:limit]]


@dataclass(frozen=True)
class _Entry:
    """An encoded clip with the rows it came from."""

    latent: Latent
    clip: Clip
    video: Video

    @property
    def caption(self) -> str:
        return self.latent.caption


def _ordered(dataset: Storage) -> list[_Entry]:
    videos = {video.video_id: video for video in from_table(dataset.read_table("videos"), Video)}
    clips = {clip.clip_id: clip for clip in from_table(dataset.read_table("clips"), Clip)}
    entries = []
    for latent in from_table(dataset.read_table("latents"), Latent):
        clip = clips[latent.clip_id]
        entries.append(_Entry(latent, clip, videos[clip.video_id]))
    if not entries:
        raise InputError(f"{dataset.uri} holds no encoded clip.", "Every clip was rejected: see its report.")
    return sorted(entries, key=lambda e: (-e.latent.latent_shape[1], e.video.uri, e.clip.start_seconds))


def _film(entry: _Entry, variant: Variant, autoencoder: Autoencoder) -> Film:
    latent, clip, uri = entry.latent, entry.clip, entry.video.uri
    reconstruction = decode(latent_tensor(latent) / variant.scale_factor, autoencoder)
    num_frames, height, width = reconstruction.shape[:3]
    footage = media.sample_clip(
        uri.removeprefix("file://"),
        start_seconds=clip.start_seconds,
        num_frames=num_frames,
        fps=variant.fps,
        height=height,
        width=width,
    )
    return Film(
        clip_id=clip.clip_id,
        uri=uri,
        start_seconds=clip.start_seconds,
        caption=latent.caption,
        footage=footage,
        reconstruction=reconstruction,
    )


def latent_tensor(latent: Latent) -> torch.Tensor:
    """The stored bytes as float32 `[1, c, t, h, w]`, still scaled."""
    values = torch.frombuffer(bytearray(latent.latent), dtype=torch.bfloat16)
    return values.float().reshape(1, *latent.latent_shape)


def decode(latent: torch.Tensor, autoencoder: Autoencoder) -> Frames:
    """An unscaled latent `[1, c, t, h, w]` as uint8 `[t, h, w, 3]`."""
    with torch.no_grad():
        pixels = autoencoder.decode(latent)[0]
    frames: Frames = ((pixels.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return frames


def psnr(first: Frames, second: Frames) -> float:
    """Peak signal-to-noise ratio of two uint8 clips of one shape, dB; infinite when equal."""
    error = float(np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2))
    return float("inf") if error == 0 else 10 * float(np.log10(255.0**2 / error))


def mp4_bytes(frames: Frames, *, fps: float) -> bytes:
    """The frames as an mp4 in memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        media.write_video(path, frames, fps=fps)
        return path.read_bytes()
