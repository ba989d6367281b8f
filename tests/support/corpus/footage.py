"""Films of known shots become takes: frames of one shot, turned and windowed, at the size that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from groundwork.footage import sample_footage
from groundwork.media import cover, read_frames

from .graded import Take

# Single shots, seen by eye: first frame, frame after the last. In focus, moving, 24 to 30 frames per second.
SHOTS: dict[str, tuple[tuple[int, int], ...]] = {
    "bikes.mp4": ((138, 184), (188, 239)),
    "bigbuckbunny.mp4": ((0, 130),),
    "cityCC0.mpg": ((0, 113), (117, 190)),
    "bbb_480p_30s.mp4": ((390, 470),),
    "coffee_pour_720p.mp4": ((0, 80),),
    "cup_rotating_480p.mp4": ((20, 100), (120, 200)),
    "dog_fetch_720p.mp4": ((0, 80), (140, 220)),
    "football_juggle_720p.mp4": ((0, 80), (120, 200)),
}
UNBROKEN = ("coffee_pour_720p.mp4", "cup_rotating_480p.mp4", "dog_fetch_720p.mp4", "football_juggle_720p.mp4")
"""Films without a cut: their shots above are two moments before one camera."""
MAX_FRAMES = 80
CACHED_SHORT_SIDE = 360
_WINDOW = 0.7


def find_films(folder: Path | None, names: Iterable[str] = SHOTS) -> dict[str, Path]:
    """Films by name, by default those of known shots: those of the folder where there is one, and those of the sample
    packages."""
    films = {path.name: path for path in sample_footage()}
    if folder is not None:
        films |= {name: folder / name for name in names if (folder / name).is_file()}
    return films


def all_takes(films: Sequence[str]) -> list[Take]:
    """Every shot in every turn and window: what shows different pictures."""
    return [
        Take(film, first, min(stop, first + MAX_FRAMES), turn, window)
        for window in range(5)
        for turn in range(4)
        for film in sorted(films)
        for first, stop in SHOTS[film]
    ]


def scene(take: str) -> str:
    """What a take, by its name, shows, in whatever turn, window or moment."""
    film, shot, _ = take.split(":")
    return film if film in UNBROKEN else f"{film}:{shot}"


class Reel:
    """Frames of takes. Shots are decoded once and kept at a short side of 360; large pictures only the last two."""

    def __init__(self, films: dict[str, Path]) -> None:
        self._films = films
        self._small = lru_cache(maxsize=None)(self._decode)
        self._large = lru_cache(maxsize=2)(self._decode)

    def picture(self, take: Take, index: int, *, height: int, width: int) -> np.ndarray:
        """Frame `index` (any integer: a shot runs to its end and back again) covering height x width."""
        large = min(height, width) > 2 * CACHED_SHORT_SIDE - 1
        decode, short_side = (self._large, 720) if large else (self._small, CACHED_SHORT_SIDE)
        frames = decode(take.film, take.first, take.stop, short_side)
        period = max(1, 2 * (len(frames) - 1))
        place = index % period
        image = frames[place if place < len(frames) else period - place]
        image = _window(image, take.window)
        image = image[:: -1 if take.turn & 2 else 1, :: -1 if take.turn & 1 else 1]
        return np.ascontiguousarray(cover(np.ascontiguousarray(image), height=height, width=width))

    def _decode(self, film: str, first: int, stop: int, short_side: int) -> list[np.ndarray]:
        frames = []
        for index, frame in enumerate(read_frames(self._films[film], short_side=short_side)):
            if index >= stop:
                break
            if index >= first:
                frames.append(frame.image)
        return frames


def _window(image: np.ndarray, window: int) -> np.ndarray:
    if not window:
        return image
    rows, columns = (round(side * _WINDOW) for side in image.shape[:2])
    top = 0 if window in (1, 2) else image.shape[0] - rows
    left = 0 if window in (1, 3) else image.shape[1] - columns
    return image[top : top + rows, left : left + columns]
