"""How frames change and how light they are becomes shot boundaries, with the rules of PySceneDetect's detectors.

Boundaries follow from these numbers alone: other thresholds need no decoding, and parts of a film are joined first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from data_pipeline.dissolves import COLUMN as DISSOLVE
from data_pipeline.neural_cuts import COLUMN
from data_pipeline.recipe import ShotSettings

_WINDOW = 2  # frames before and after that the adaptive detector averages, as PySceneDetect does
_LONGEST_FADE_SECONDS = 2.0  # of black: more is a shot of its own; and of the way into it and out of it
_STEEPNESS = 0.3  # levels of light per frame that a fade changes at least
_FLASH_STEP = 20.0  # levels of light by which a flash changes the whole picture at least …
_FLASH_UNDONE = 0.15  # … and how near, in shares of that step, the light comes back to where it was


@dataclass(frozen=True)
class Shots:
    """`starts`: which frames begin a shot, the first one always; `between`: frames of a fade or dissolve."""

    starts: Bool[np.ndarray, " t"]
    between: Bool[np.ndarray, " t"]


def find_shots(series: Mapping[str, np.ndarray], settings: ShotSettings) -> Shots:
    """Shots of a film from its columns `seconds`, `content`, `brightness`, `dissolve` and `gap` (true behind a damaged
    place).

    No shot is shorter than `min_shot_seconds`, but for what follows a gap.
    """
    seconds, count = series["seconds"], len(series["seconds"])
    gaps = np.flatnonzero(series["gap"])
    between = np.zeros(count, bool)
    candidates = dict.fromkeys(_without_flashes(_cuts(series, settings), series, settings.flash_seconds), 1)
    if settings.neural.enabled:
        candidates, between = _judged(candidates, series[COLUMN], threshold=settings.neural.threshold)
    if settings.fades or settings.detector == "threshold":
        for first, stop in _fades(series["brightness"], seconds, level=settings.fade_level):
            between[first:stop] = True
    if settings.dissolves:
        for first, stop in _runs(series[DISSOLVE] >= settings.dissolve_likeness):
            # A fade is half a dissolve on either side, and knows its ends better.
            between[first:stop] |= not between[first:stop].any()
    candidates = {index: 1 for index in candidates if not between[index]}
    candidates |= dict.fromkeys(_middles(between), 1)
    starts = np.zeros(count, bool)
    starts[[0, *_far_apart(sorted(candidates), seconds, settings.min_shot_seconds), *gaps]] = True
    return Shots(starts, between)


def _cuts(series: Mapping[str, np.ndarray], settings: ShotSettings) -> Iterable[int]:
    content = series["content"].astype(np.float64)
    if settings.detector == "content":
        return [int(index) for index in np.flatnonzero(content >= settings.threshold) if index > 0]
    if settings.detector == "adaptive" and len(content) > 2 * _WINDOW:
        kernel = np.ones(2 * _WINDOW + 1)
        kernel[_WINDOW] = 0
        around = np.convolve(content, kernel, mode="valid") / (2 * _WINDOW)
        own = content[_WINDOW:-_WINDOW]
        jumps = (own >= settings.threshold * np.maximum(around, 1e-5)) & (own >= settings.min_content)
        return [int(index) + _WINDOW for index in np.flatnonzero(jumps)]
    return []


def _without_flashes(candidates: Iterable[int], series: Mapping[str, np.ndarray], longest: float) -> Iterable[int]:
    """Those jumps of light that are not undone, nor undo one, within `longest` seconds."""
    light, seconds = series["brightness"].astype(np.float64), series["seconds"]
    for index in candidates:
        before, after = light[index - 1], light[index]
        first = int(np.searchsorted(seconds, seconds[index] - longest))
        stop = int(np.searchsorted(seconds, seconds[index] + longest, side="right"))
        near = _FLASH_UNDONE * abs(after - before)
        undone = (np.abs(light[index + 1 : stop] - before) < near).any()
        undoes = (np.abs(light[first : index - 1] - after) < near).any()
        if abs(after - before) < _FLASH_STEP or not (undone or undoes):
            yield index


def _judged(
    candidates: Iterable[int], probability: Float[np.ndarray, " t"], *, threshold: float
) -> tuple[dict[int, int], Bool[np.ndarray, " t"]]:
    """The cuts that the network was not asked about or agrees with, and those it adds; the frames of gradual ones.

    A probability belongs to the last frame of a shot; more than two frames in a row are a gradual change.
    """
    cuts, between = {}, np.zeros(len(probability), bool)
    for index in candidates:
        near = probability[max(0, index - 1 - _WINDOW) : index + _WINDOW]
        if np.isnan(near).all() or np.nanmax(near) >= threshold:
            cuts[index] = 1
    sure = np.nan_to_num(probability) >= threshold
    for first, stop in _runs(sure):
        gradual = stop - first > _WINDOW
        if gradual:
            between[first + 1 : stop] = True
        if stop < len(probability) and not any(abs(stop - cut) <= _WINDOW + 1 for cut in cuts):
            cuts[int(first + stop) // 2 + 1 if gradual else int(stop)] = 1
    return cuts, between


def _fades(
    light: Float[np.ndarray, " t"], seconds: Float[np.ndarray, " t"], *, level: float
) -> Iterable[tuple[int, int]]:
    """First and last frame (exclusive) of each way into black or white and out again; long darkness is no fade."""
    for end in (light, 255.0 - light):
        for first, stop in _runs(end < level):
            if seconds[stop - 1] - seconds[first] <= _LONGEST_FADE_SECONDS:
                yield _ramp(end, seconds, first, step=-1), _ramp(end, seconds, stop - 1, step=1) + 1


def _ramp(end: Float[np.ndarray, " t"], seconds: Float[np.ndarray, " t"], index: int, *, step: int) -> int:
    """The last frame, from `index` on in direction `step`, to which the light rises frame by frame."""
    start = index
    while 0 <= index + step < len(end) and end[index + step] - end[index] >= _STEEPNESS:
        if abs(seconds[index + step] - seconds[start]) > _LONGEST_FADE_SECONDS:
            break
        index += step
    return index


def _middles(between: Bool[np.ndarray, " t"]) -> list[int]:
    """The middle of each run that has frames on both sides."""
    return [(first + stop) // 2 for first, stop in _runs(between) if first > 0 and stop < len(between)]


def _runs(marked: Bool[np.ndarray, " t"]) -> list[tuple[int, int]]:
    """First frame and frame after the last of each run."""
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _far_apart(candidates: Iterable[int], seconds: Float[np.ndarray, " t"], least: float) -> list[int]:
    """Of candidates closer together than `least` seconds the first; none so close to the film's first frame."""
    chosen, last = [], 0
    for index in candidates:
        if seconds[index] - seconds[last] >= least - 1e-6:
            chosen.append(index)
            last = index
    return chosen
