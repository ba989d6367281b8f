"""Films that curation is measured on: real footage at the sizes that people collect, a cut every few seconds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from tests.support.corpus.effects import frames_of
from tests.support.corpus.footage import Reel, all_takes, find_films
from tests.support.corpus.graded import Recording, Segment, Take
from tests.support.corpus.record import record

TINY = ("tiny_0.mp4", "tiny_1.mp4")  # two, so that both of our workers start
# Name, width, height, frames per second, share of the asked length.
SIZES = (("1080p", 1920, 1080, 30, 0.3), ("720p", 1280, 720, 30, 0.4), ("480p", 854, 480, 25, 0.3))
_SHOT_SECONDS = 3.0
_TINY_SECONDS = 2.4  # one clip


def make_films(folder: Path, *, seconds: float, footage: Path | None) -> tuple[list[Path], list[Path], float]:
    """Tiny films that stand for the start of a command, the films themselves, and how long these are."""
    found = find_films(footage)
    takes = [take for take in all_takes(list(found)) if take.window == 0]
    ways = itertools.cycle(takes)
    reel = Reel(found)
    folder.mkdir(parents=True, exist_ok=True)
    films, total = [], 0.0
    for name, width, height, fps, share in SIZES:
        recording = Recording(width=width, height=height, fps=fps, gop=fps * 8, quality=23)
        shots = max(1, round(seconds * share / _SHOT_SECONDS))
        films.append(_film(folder / f"{name}.mp4", recording, [next(ways) for _ in range(shots)], reel))
        total += shots * _SHOT_SECONDS
    small = Recording(width=320, height=180)
    tiny = [_film(folder / name, small, [next(ways)], reel, seconds=_TINY_SECONDS) for name in TINY]
    return tiny, films, total


def _film(
    path: Path, recording: Recording, takes: Sequence[Take], reel: Reel, *, seconds: float = _SHOT_SECONDS
) -> Path:
    if not path.exists():
        segments = tuple(Segment(take, round(seconds * recording.fps)) for take in takes)
        part = path.with_suffix(".part")
        record(part, frames_of(segments, recording, reel), recording)
        part.rename(path)
    return path
