"""Exported weights become RUN/samples: films of training prompts, each beside the clip that it should resemble."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox import CogVideoX, shape
from cogvideox.guidance import Guidance
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import Variant
from groundwork.latents import IndexedClip
from groundwork.media import write_video
from groundwork.storage import Storage
from training.clips import ClipReader
from training.recipe import SampleSettings
from training.run_folder import SAMPLES


def write_samples(
    run: Storage, weights: Path, clips: tuple[IndexedClip, ...], reader: ClipReader, *, settings: SampleSettings
) -> None:
    """For some clips, spread over the dataset: NAME-generated.mp4 from the clip's text, NAME-clip.mp4 from its latent.

    Everything is drawn from fixed seeds: the same weights give the same films.
    """
    if not settings.count:
        return
    model = CogVideoX.from_pretrained(weights, dtype=torch.float32)
    every = max(1, len(clips) // settings.count)
    for number in range(0, len(clips), every)[: settings.count]:
        encoded = reader.read(number)
        if encoded.damaged:
            continue
        name = f"{SAMPLES}/{clips[number].clip_id[:12]}"
        latent = encoded.latent.float()[None]
        films = {"generated": _generate(model, encoded.text_embedding, latent, settings=settings)}
        films["clip"] = model.decode(latent / model.variant.scale_factor)
        for kind, frames in films.items():
            _write(run, f"{name}-{kind}.mp4", frames, fps=model.variant.fps)


def _generate(
    model: CogVideoX, text: Tensor, like: Float[Tensor, "1 c t h w"], *, settings: SampleSettings
) -> UInt8[Tensor, "t h w 3"]:
    """A film of the size of the latent `like`, from a clip's own text embedding."""
    _, _, latent_frames, rows, columns = like.shape
    text = text.float()[None]
    trajectory = Trajectory(
        variant=model.variant,
        settings=Settings(
            num_frames=shape.pixel_frames(latent_frames),
            height=rows * shape.SPATIAL_COMPRESSION,
            width=columns * shape.SPATIAL_COMPRESSION,
            num_steps=settings.num_steps,
            guidance=Guidance(scale=settings.guidance_scale),
        ),
        denoiser=model.denoiser,
        positive=text,
        image=first_frame(like, model.variant) if model.variant.takes_image else None,
        negative=torch.zeros_like(text),
    )
    state = trajectory.start()
    while not state.finished:
        state = trajectory.step(state)
    return model.decode(trajectory.latent(state))


def first_frame(latent: Float[Tensor, "1 c t h w"], variant: Variant) -> Float[Tensor, "1 c 1 h w"]:
    """The image that a scaled latent begins with, as an image-to-video model was trained to see it."""
    return latent[:, :, :1] * (variant.image_latent_scale / variant.scale_factor)


def _write(run: Storage, path: str, frames: UInt8[Tensor, "t h w 3"], *, fps: float) -> None:
    with tempfile.TemporaryDirectory(prefix="cvx-sample-") as folder:
        local = Path(folder) / "film.mp4"
        write_video(local, frames.numpy(), fps=fps)
        run.upload(local, path)
