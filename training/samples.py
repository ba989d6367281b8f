"""A model becomes films of training prompts in RUN/samples, each beside the clip that it should resemble."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from cogvideox import CogVideoX, shape
from cogvideox.guidance import Guidance
from cogvideox.trajectory import Settings, Trajectory
from cogvideox.variants import Variant
from groundwork.media import write_video
from groundwork.storage import Storage
from training.datasets import TrainingData
from training.export import WEIGHTS
from training.films import Film, Series, clip_path, note_series
from training.metrics import TENSORBOARD
from training.recipe import SampleSettings
from training.run_folder import SAMPLES

_PICTURES_IN_A_ROW = 8


@dataclass(frozen=True)
class Asked:
    """A clip whose text is asked for; its scaled latent is what the film should resemble."""

    film: Film
    text: Float[Tensor, "1 n d"]
    latent: Float[Tensor, "1 c t h w"]


@dataclass(frozen=True)
class Prompts:
    """The clips of a dataset that are asked for: `settings.count`, spread over it, always the same ones."""

    data: TrainingData
    settings: SampleSettings

    def __iter__(self) -> Iterator[Asked]:
        """Each of them; one whose row is damaged is left out."""
        if not self.settings.count:
            return
        reader, clips = self.data.reader(), self.data.clips
        every = max(1, len(clips) // self.settings.count)
        for number in range(0, len(clips), every)[: self.settings.count]:
            encoded, clip = reader.read(number), clips[number]
            if not encoded.damaged:
                yield Asked(
                    film=Film(f"{clip.clip_id[:12]}-{clip.bucket}", caption=self.data.stored.captions(number)[0]),
                    text=encoded.text_embedding.float()[None],
                    latent=encoded.latent.float()[None],
                )


def write_samples(run: Storage, model: CogVideoX, prompts: Prompts, *, step: int, folder: str = SAMPLES) -> None:
    """For every prompt a film from the clip's text, and once the clip itself, decoded; TensorBoard gets some pictures.

    Everything is drawn from fixed seeds: the same weights give the same films.
    """
    films = [(asked, _generate(model, asked, settings=prompts.settings)) for asked in prompts]
    series = Series(step=step, folder=folder, films=tuple(asked.film for asked, _ in films))
    for asked, frames in films:
        _write(run, series.path(asked.film), frames, fps=model.variant.fps)
        if not run.exists(clip_path(asked.film)):
            clip = model.decode(asked.latent / model.variant.scale_factor)
            _write(run, clip_path(asked.film), clip, fps=model.variant.fps)
    _show_pictures(run, {asked.film: frames for asked, frames in films}, step=step)
    note_series(run, series)


def write_last_samples(run: Storage, prompts: Prompts, *, step: int) -> None:
    """The films of a training's end, made by the exported weights; none where the recipe wants none."""
    if prompts.settings.count:
        with run.local_path(WEIGHTS) as weights:
            write_samples(run, CogVideoX.from_pretrained(weights, dtype=torch.float32), prompts, step=step)


def _generate(model: CogVideoX, asked: Asked, *, settings: SampleSettings) -> UInt8[Tensor, "t h w 3"]:
    """A film of the size of the clip, from the clip's own text embedding."""
    _, _, latent_frames, rows, columns = asked.latent.shape
    text = asked.text.to(model.denoiser.out_projection.weight)
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
        image=first_frame(asked.latent, model.variant) if model.variant.takes_image else None,
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


def _show_pictures(run: Storage, films: dict[Film, UInt8[Tensor, "t h w 3"]], *, step: int) -> None:
    """Some pictures of each film side by side, as images of TensorBoard's run `samples`."""
    from torch.utils.tensorboard import SummaryWriter  # seconds to import

    with tempfile.TemporaryDirectory(prefix="cvx-tensorboard-") as folder:
        with SummaryWriter(folder) as writer:
            for film, frames in films.items():
                chosen = torch.linspace(0, len(frames) - 1, min(len(frames), _PICTURES_IN_A_ROW)).round().long()
                row = torch.cat(list(frames[chosen]), dim=1)
                writer.add_image(f"{film.name}: {film.caption[:60]}", row, step, dataformats="HWC")
        run.upload(Path(folder), f"{TENSORBOARD}/samples")
