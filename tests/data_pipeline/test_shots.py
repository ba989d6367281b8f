"""Shots: cuts of real films within one frame of what the eye sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scenedetect import FrameTimecode
from scenedetect.detectors import AdaptiveDetector, ContentDetector

from data_pipeline.change import COLUMNS, Change
from data_pipeline.clips import Timeline
from data_pipeline.dissolves import COLUMN as DISSOLVE
from data_pipeline.recipe import ShotSettings
from data_pipeline.shots import find_shots
from data_pipeline.signals.picture import SMALL_SHORT_SIDE, Picture
from groundwork.media import SmallFrame, read_small

TOY_SHOTS = ShotSettings(min_shot_seconds=0.3)
FILMS = {"bikes.mp4": [29, 75, 136, 186, 241], "city.mpg": [115], "bunny.mp4": []}

Series = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def measured(footage: Path) -> dict[str, Series]:
    """The columns that shots follow from, of each film."""
    return {film: changes(list(read_small(footage / film, short_side=SMALL_SHORT_SIDE))) for film in FILMS}


def changes(frames: list[SmallFrame]) -> Series:
    meter = Change()
    rows = [meter.update(Picture(frame)) for frame in frames]
    series = {name: np.array([row[name] for row in rows], np.float32) for name in COLUMNS}
    return {**series, "seconds": np.array([frame.seconds for frame in frames]), **nothing(len(frames))}


def nothing(count: int) -> Series:
    """The columns of frames without a damaged place or a dissolve."""
    return {"gap": np.zeros(count, bool), DISSOLVE: np.zeros(count)}


def boundaries(series: Series, settings: ShotSettings) -> list[int]:
    starts = find_shots(series, settings).starts
    assert starts[0]
    return [int(index) for index in np.flatnonzero(starts)[1:]]


@pytest.mark.parametrize("film", FILMS)
def test_cuts_are_found_within_one_frame(measured: dict[str, Series], film: str) -> None:
    found = boundaries(measured[film], TOY_SHOTS)
    assert len(found) == len(FILMS[film])
    assert np.abs(np.subtract(found, FILMS[film])).max(initial=0) <= 1


@pytest.mark.parametrize("film", FILMS)
def test_measures_and_cuts_are_those_of_pyscenedetect(footage: Path, measured: dict[str, Series], film: str) -> None:
    adaptive = AdaptiveDetector(adaptive_threshold=3.0, min_content_val=15.0, min_scene_len=8)
    content, found = ContentDetector(), list[int]()
    for index, frame in enumerate(read_small(footage / film, short_side=SMALL_SHORT_SIDE)):
        rgb = Picture(frame).small_rgb
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        found += [cut.frame_num for cut in adaptive.process_frame(FrameTimecode(index, 25.0), bgr)]
        score = content._calculate_frame_score(FrameTimecode(index, 25.0), bgr)
        assert measured[film]["content"][index] == pytest.approx(score, abs=1e-3)
        assert measured[film]["brightness"][index] == pytest.approx(rgb.mean(), abs=1e-3)
    assert boundaries(measured[film], TOY_SHOTS) == found


def test_the_content_detector_finds_the_same_cut(measured: dict[str, Series]) -> None:
    settings = ShotSettings(detector="content", threshold=27.0, min_shot_seconds=0.3)
    (found,) = boundaries(measured["city.mpg"], settings)
    assert abs(found - 115) <= 1


def test_no_second_cut_comes_sooner_than_allowed(measured: dict[str, Series]) -> None:
    series = measured["bikes.mp4"]
    found = boundaries(series, ShotSettings(min_shot_seconds=2.2))
    assert np.diff(series["seconds"][[0, *found]]).min() >= 2.2 - 1e-6


def faded(*, level: float, dark_frames: int) -> Series:
    """Two shots of 50 frames that fade out over 10 frames to a level of light, stay there, and fade in again."""
    ramp = np.linspace(120, level, 10)
    light = np.concatenate([np.full(40, 120.0), ramp, np.full(dark_frames, level), ramp[::-1], np.full(40, 120.0)])
    count = len(light)
    return {
        "content": np.zeros(count),
        "brightness": light,
        "seconds": np.arange(count) / 25.0,
        **nothing(count),
    }


@pytest.mark.parametrize("level", [0.0, 255.0])
@pytest.mark.parametrize("detector", ["adaptive", "threshold"])
def test_a_fade_ends_a_shot_and_its_frames_belong_to_none(level: float, detector: str) -> None:
    series = faded(level=level, dark_frames=6)
    settings = ShotSettings.model_validate({"detector": detector, "fades": detector == "adaptive"})
    shots = find_shots(series, settings)
    assert list(np.flatnonzero(shots.starts)) == [0, 53]
    assert list(np.flatnonzero(shots.between)[[0, -1]]) == [40, 65]
    timeline = Timeline(np.arange(106), series["seconds"], [0, 53], shots.between)
    assert [timeline.without_fades(*shot) for shot in timeline.shots()] == [(0, 40), (66, 106)]


@pytest.mark.parametrize("likeness", [0.8, 0.9])
def test_a_dissolve_ends_a_shot_and_its_frames_belong_to_none(likeness: float) -> None:
    series = {name: np.zeros(100) for name in ("content", "brightness")} | {"seconds": np.arange(100) / 25.0}
    series |= nothing(100) | {"brightness": np.full(100, 90.0)}
    series[DISSOLVE][40:60] = likeness
    shots = find_shots(series, ShotSettings(dissolve_likeness=0.85))
    assert list(np.flatnonzero(shots.starts)) == ([0, 50] if likeness > 0.85 else [0])
    assert list(np.flatnonzero(shots.between)) == (list(range(40, 60)) if likeness > 0.85 else [])
    assert not find_shots(series, ShotSettings(dissolves=False)).between.any()


def test_no_fade_is_seen_where_none_is_asked_for_nor_in_a_long_night() -> None:
    assert boundaries(faded(level=0.0, dark_frames=6), ShotSettings(fades=False)) == []
    assert boundaries(faded(level=0.0, dark_frames=60), ShotSettings()) == []


def test_flashes_are_no_cuts(measured: dict[str, Series]) -> None:
    series = measured["city.mpg"]
    content, light = series["content"].copy(), series["brightness"].copy()
    for first in (40, 150):  # three bright frames: two jumps
        light[first : first + 3] += 80
        content[[first, first + 3]] = 60
    flashed = {**series, "content": content, "brightness": light}
    assert boundaries(flashed, TOY_SHOTS) == boundaries(series, TOY_SHOTS)
    assert len(boundaries(flashed, ShotSettings(min_shot_seconds=0.3, flash_seconds=0))) > 2


def test_a_damaged_place_ends_a_shot(measured: dict[str, Series]) -> None:
    gap = np.arange(132) == 70
    assert boundaries({**measured["bunny.mp4"], "gap": gap}, TOY_SHOTS) == [70]
    assert boundaries({**measured["bunny.mp4"], "gap": gap}, ShotSettings(detector="none")) == [70]


def test_one_frame_is_one_shot() -> None:
    one = {name: np.zeros(1) for name in ("content", "brightness", "seconds")}
    assert boundaries({**one, **nothing(1)}, ShotSettings()) == []
