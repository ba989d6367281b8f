"""Shots: cuts of real films within one frame of what the eye sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_pipeline.recipe import ShotSettings
from data_pipeline.shots import ShotDetector
from data_pipeline.signals.picture import SMALL_SHORT_SIDE
from groundwork.media import probe, read_frames

TOY_SHOTS = ShotSettings(min_shot_seconds=0.3)


def boundaries(path: Path, settings: ShotSettings) -> list[int]:
    detector = ShotDetector(settings, fps=probe(path).fps)
    for frame in read_frames(path, short_side=SMALL_SHORT_SIDE):
        detector.update(frame.image)
    return detector.finish()


@pytest.mark.parametrize(
    ("film", "seen"), [("bikes.mp4", [29, 75, 136, 186, 241]), ("city.mpg", [115]), ("bunny.mp4", [])]
)
def test_cuts_are_found_within_one_frame(footage: Path, film: str, seen: list[int]) -> None:
    found = boundaries(footage / film, TOY_SHOTS)
    assert len(found) == len(seen)
    assert np.abs(np.subtract(found, seen)).max(initial=0) <= 1


def test_the_content_detector_finds_the_same_cut(footage: Path) -> None:
    settings = ShotSettings(detector="content", threshold=27.0, min_shot_seconds=0.3)
    found = boundaries(footage / "city.mpg", settings)
    assert len(found) == 1
    assert abs(found[0] - 115) <= 1


def test_no_second_cut_comes_sooner_than_allowed(footage: Path) -> None:
    found = boundaries(footage / "bikes.mp4", ShotSettings(min_shot_seconds=2.2))
    assert np.diff([0, *found]).min() >= 2.2 * 25


def test_a_film_without_frames_has_no_boundaries() -> None:
    assert ShotDetector(TOY_SHOTS, fps=0.0).finish() == []
