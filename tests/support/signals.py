"""Frames become the scores of all signals, as in a decode pass; drawn scenes that move as one wants."""

from __future__ import annotations

import cv2
import numpy as np

from data_pipeline.dissolves import COLUMN, likeness
from data_pipeline.signals import SIGNALS
from data_pipeline.signals.measuring import Measuring
from data_pipeline.signals.picture import picture_of

FPS = 25.0


def series_of(frames: np.ndarray, *, fps: float = FPS) -> dict[str, np.ndarray]:
    """The columns that one pass over RGB frames `[t, h, w, 3]` gives, and `seconds`."""
    measuring = Measuring()
    for index, frame in enumerate(frames):
        measuring.update(picture_of(frame, seconds=index / fps))
    columns = {name: array.to_numpy() for name, array in measuring.arrays().items()}
    # "content" is no signal's; where each step brings as much, no cut is among them.
    series = {"seconds": np.arange(len(frames)) / fps, "content": np.ones(len(frames)), **columns}
    return {**series, COLUMN: likeness(series)}


def scores(frames: np.ndarray, *, fps: float = FPS) -> dict[str, float]:
    """Every score of these frames taken as one clip."""
    series = series_of(frames, fps=fps)
    return {name: value for signal in SIGNALS.values() for name, value in signal.score(series).items()}


def scenery(seed: int, *, height: int = 144, width: int = 256) -> np.ndarray:
    """A grey picture with structure on all scales, unlike that of any other seed, as RGB."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    layers = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (1.5, 6, 18, 40))
    grey = cv2.normalize(layers, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def panned(seed: int, *, count: int, step: float, height: int = 144, width: int = 256) -> np.ndarray:
    """`count` frames of a scenery that moves left by `step` pixels a frame."""
    wide = scenery(seed, height=height, width=width + int(np.ceil(count * step)) + 2)
    moves = [np.float32([[1, 0, -index * step], [0, 1, 0]]) for index in range(count)]
    return np.stack([cv2.warpAffine(wide, move, (width, height), flags=cv2.INTER_LINEAR) for move in moves])


def still(seed: int, *, count: int) -> np.ndarray:
    """`count` equal frames of a scenery."""
    return np.repeat(scenery(seed)[None], count, axis=0)
