"""Turns video files into random training clips, held decoded in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from groundwork import media
from groundwork.footage import sample_footage
from training.autoencoder.recipe import AutoencoderRecipe, Stage


@dataclass(frozen=True)
class Reel:
    """One source at one zoom: frames ``t h w 3`` at the source's own rate, with their times in seconds."""

    frames: UInt8[np.ndarray, "t h w 3"]
    seconds: Float[np.ndarray, " t"]


def read_reel(path: Path, *, height: int, width: int) -> Reel:
    """Decodes a whole file, each frame resized (area average) to cover ``height x width`` with its aspect kept."""
    frames, seconds = [], []
    for frame in media.read_frames(path):
        rows, columns = frame.image.shape[:2]
        scale = max(height / rows, width / columns)
        size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
        frames.append(cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA))
        seconds.append(frame.seconds)
    return Reel(np.stack(frames), np.asarray(seconds) - seconds[0])


def read_footage(recipe: AutoencoderRecipe) -> list[Reel]:
    """Every file of the recipe at every zoom."""
    paths = sample_footage() if recipe.footage == "demo" else list(recipe.footage)
    return [
        read_reel(path, height=round(recipe.height * zoom), width=round(recipe.width * zoom))
        for zoom in recipe.zooms
        for path in paths
    ]


def frame_indices(reel: Reel, *, start_seconds: float, num_frames: int, fps: float) -> NDArray[np.int64]:
    """For each tick of an ``fps`` clock from ``start_seconds``, the index of the frame on screen."""
    ticks = start_seconds + np.arange(num_frames) / fps
    return np.clip(np.searchsorted(reel.seconds, ticks + 1e-6, side="right") - 1, 0, len(reel.seconds) - 1)


def random_clip(
    reels: Sequence[Reel], *, stage: Stage, fps: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "t h w 3"]:
    """A clip at random: reel (by length), start, crop position, mirrored or not."""
    lengths = np.array([reel.seconds[-1] for reel in reels])
    reel = reels[rng.choice(len(reels), p=lengths / lengths.sum())]
    room = max(reel.seconds[-1] - (stage.num_frames - 1) / fps, 0.0)
    index = frame_indices(reel, start_seconds=rng.uniform(0, room), num_frames=stage.num_frames, fps=fps)
    top = rng.integers(reel.frames.shape[1] - stage.height + 1)
    left = rng.integers(reel.frames.shape[2] - stage.width + 1)
    clip = reel.frames[index, top : top + stage.height, left : left + stage.width]
    return clip[:, :, ::-1] if rng.random() < 0.5 else clip


def to_pixels(frames: UInt8[np.ndarray, "... t h w 3"]) -> Float[Tensor, "... 3 t h w"]:
    """uint8 frames to float pixels in -1..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(frames))
    pixels: Tensor = rearrange(tensor, "... t h w c -> ... c t h w").float() / 127.5 - 1.0
    return pixels


def training_batch(reels: Sequence[Reel], *, recipe: AutoencoderRecipe, step: int) -> Float[Tensor, "b 3 t h w"]:
    """The batch of a step: a pure function of footage, recipe and step, so that a resumed run sees the same one."""
    rng = np.random.default_rng((recipe.seed, step))
    stage = recipe.position(step)[0]
    clips = [random_clip(reels, stage=stage, fps=recipe.fps, rng=rng) for _ in range(stage.batch)]
    return to_pixels(np.stack(clips))


def whole_frame_clips(
    reel: Reel, *, num_frames: int, height: int, width: int, fps: float
) -> list[UInt8[np.ndarray, "t h w 3"]]:
    """The reel as consecutive clips of centre-cropped frames, for measuring; the short rest is left out."""
    total = int(reel.seconds[-1] * fps) + 1
    top, left = (reel.frames.shape[1] - height) // 2, (reel.frames.shape[2] - width) // 2
    clips = []
    for first in range(0, total - num_frames + 1, num_frames):
        index = frame_indices(reel, start_seconds=first / fps, num_frames=num_frames, fps=fps)
        clips.append(reel.frames[index, top : top + height, left : left + width])
    return clips
