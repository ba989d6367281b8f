"""Signals on drawn footage: each defect, drawn into a scene, is told from the same scene without it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_pipeline.signals import SIGNALS
from data_pipeline.signals.blockiness import blockiness
from data_pipeline.signals.borders import bars
from tests.support.signals import FPS, panned, scenery, scores, series_of, still


@pytest.fixture(scope="module")
def pan() -> dict[str, float]:
    return scores(panned(1, count=50, step=1.0))


def moved_square(*, count: int, camera: float, square: float) -> np.ndarray:
    """A scenery that moves by `camera` pixels a frame, in front of it a patch that moves by `square`."""
    frames = panned(2, count=count, step=camera)
    patch = scenery(3)[:60, :60]
    for index, frame in enumerate(frames):
        left = round(20 + index * square)
        frame[40:100, left : left + 60] = patch
    return frames


def panned_past_a_wall(*, count: int) -> np.ndarray:
    """The camera turns from one scenery to another, past something plain between them."""
    first, second = scenery(1), scenery(2)
    wide = np.concatenate([first, np.full_like(first, first.mean()), second], axis=1)
    lefts = np.linspace(0, wide.shape[1] - first.shape[1], count).round().astype(int)
    return np.stack([wide[:, left : left + first.shape[1]] for left in lefts])


def dissolve(first: np.ndarray, second: np.ndarray, *, seconds: float) -> np.ndarray:
    """Two clips of equal length, mixed in the middle over so long."""
    share = np.clip((np.arange(len(first)) - len(first) / 2) / (seconds * FPS) + 0.5, 0, 1)[:, None, None, None]
    return (first * (1 - share) + second * share).astype(np.uint8)


def test_a_pan_belongs_to_the_camera_and_a_patch_to_the_subject(pan: dict[str, float]) -> None:
    patch = scores(moved_square(count=25, camera=0.0, square=3.0))
    # One pixel of 144 a frame, 25 times a second.
    assert pan["camera_score"] == pytest.approx(100 / 144 * FPS, rel=0.1)
    assert pan["subject_score"] < 0.1 * pan["camera_score"]
    assert pan["moving_share"] > 0.9
    assert patch["camera_score"] < 0.2 * patch["subject_score"]
    assert 0.05 < patch["moving_share"] < 0.4


def test_a_patch_that_moves_against_a_pan_is_told_from_it(pan: dict[str, float]) -> None:
    both = scores(moved_square(count=25, camera=1.0, square=3.0))
    assert both["camera_score"] == pytest.approx(pan["camera_score"], rel=0.15)
    assert both["subject_score"] > 3 * pan["subject_score"]


def test_a_shaking_camera_strays_from_its_course_and_a_pan_does_not(pan: dict[str, float]) -> None:
    wide = scenery(1, height=180, width=320)
    shakes = np.random.default_rng(5).normal(0, 2.5, (50, 2))
    frames = [wide[int(18 + y) : int(18 + y) + 144, int(32 + x) : int(32 + x) + 256] for y, x in shakes]
    assert pan["jitter_score"] < 0.1 < 0.8 < scores(np.stack(frames))["jitter_score"]


def test_repeated_frames_are_counted_and_the_true_rate_is_told(pan: dict[str, float]) -> None:
    halved = scores(np.repeat(panned(1, count=25, step=2.0), 2, axis=0))
    assert (pan["duplicate_share"], pan["picture_fps"]) == (0.0, pytest.approx(FPS))
    assert halved["duplicate_share"] == pytest.approx(0.5, abs=0.02)
    assert halved["picture_fps"] == pytest.approx(FPS / 2, rel=0.03)
    assert halved["still_share"] == 0.0


def test_stills_that_follow_each_other_are_a_slideshow_and_a_halting_pan_is_not(pan: dict[str, float]) -> None:
    slides = scores(np.concatenate([still(seed, count=20) for seed in (1, 2, 3)]))
    motion = panned(1, count=20, step=1.0)
    faded = scores(dissolve(still(1, count=50), still(2, count=50), seconds=0.8))
    halting = scores(np.concatenate([motion[:1].repeat(20, axis=0), motion, motion[-1:].repeat(20, axis=0)]))
    assert slides["slideshow_score"] > 0.9
    assert faded["slideshow_score"] > 0.5
    assert halting["slideshow_score"] == pan["slideshow_score"] == 0.0
    assert halting["still_share"] == pytest.approx(2 / 3, abs=0.1)


def test_black_and_white_frames_are_counted() -> None:
    frames = still(1, count=20)
    frames[:5], frames[15:] = 0, 255
    found = scores(frames)
    assert (found["black_share"], found["white_share"]) == (0.25, 0.25)


@pytest.mark.parametrize(("period", "flashes"), [(50, 0.0), (10, 2.5), (5, 5.0)])
def test_flashes_are_counted_per_second(period: int, flashes: float) -> None:
    frames = still(1, count=50)
    frames[np.arange(50) % period >= period / 2] //= 8
    assert scores(frames)["flash_rate"] == pytest.approx(flashes, abs=0.6)


def test_a_small_lamp_and_a_slow_dimming_are_no_flashes() -> None:
    lamp = still(1, count=50)
    lamp[::4, 20:60, 20:60] = 255
    dimming = (still(1, count=50) * np.linspace(1, 0.2, 50)[:, None, None, None]).astype(np.uint8)
    assert scores(lamp)["flash_rate"] == 0.0
    assert scores(dimming)["flash_rate"] <= 0.5


def test_bars_are_measured_and_say_where_to_crop(pan: dict[str, float]) -> None:
    boxed = panned(1, count=30, step=1.0)
    boxed[:, :18], boxed[:, 126:] = 16, 16
    boxed[3] = 0  # a black frame has no say
    found = scores(boxed)
    assert (found["crop_top"], found["crop_bottom"]) == (pytest.approx(18 / 144), pytest.approx(18 / 144))
    assert (found["letterbox_share"], found["pillarbox_share"]) == (pytest.approx(0.25), 0.0)
    assert pan["border_share"] == 0.0


def test_a_dark_scene_that_fades_to_its_sides_has_no_bars() -> None:
    glow = np.exp(-(np.linspace(-3, 3, 256) ** 2)) * 120
    spot = np.tile(glow, (144, 1)).astype(np.uint8)
    assert np.isnan(bars(spot)).any()
    assert scores(np.repeat(spot[None, ..., None], 3, axis=3).repeat(12, axis=0))["border_share"] == 0.0


@pytest.mark.parametrize(("quality", "low", "high"), [(95, 0.0, 0.15), (12, 0.5, 50.0), (5, 1.0, 50.0)])
def test_the_grid_of_a_coder_shows_the_more_the_less_it_may_spend(quality: int, low: float, high: float) -> None:
    picture = scenery(4, height=360, width=640)[..., 0]
    done, coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    grid = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
    assert low <= blockiness(grid) <= high
    assert blockiness(grid[3:, 5:]) == pytest.approx(blockiness(grid), rel=0.2, abs=0.05)


@pytest.mark.parametrize("seconds", [0.24, 0.6, 1.0, 1.5])
def test_a_dissolve_is_found_and_about_as_long_as_it_is(seconds: float) -> None:
    first, second = panned(1, count=60, step=0.3), panned(7, count=60, step=0.5) // 2 + 100
    dissolved = series_of(dissolve(first, second, seconds=seconds))["dissolve"] >= 0.85
    assert np.count_nonzero(np.diff(dissolved, prepend=False)) == 2
    assert dissolved.sum() / 25 == pytest.approx(seconds, rel=0.3, abs=0.13)


def test_a_fade_to_black_is_a_transition_and_pans_and_patches_are_none(pan: dict[str, float]) -> None:
    first = panned(1, count=60, step=1.0)
    assert scores(dissolve(first, np.zeros_like(first), seconds=1.0))["transition_score"] > 0.9
    fast = scores(panned(5, count=40, step=5.0))
    patch = scores(moved_square(count=40, camera=0.0, square=3.0))
    past_a_wall = scores(panned_past_a_wall(count=30))
    assert [one["transition_score"] for one in (pan, fast, patch, past_a_wall)] == [0.0, 0.0, 0.0, 0.0]


def test_every_series_is_a_value_per_frame_and_a_span_is_a_slice() -> None:
    frames = panned(1, count=50, step=1.0)  # 25 of them are a second: both parts are looked at in the same beat
    whole = series_of(frames)
    assert {len(values) for values in whole.values()} == {50}
    late = {name: values[25:] for name, values in whole.items()}
    alone = scores(frames[25:])
    for name in ("motion", "still", "exposure", "borders", "sharpness"):
        for score, value in SIGNALS[name].score(late).items():
            assert value == pytest.approx(alone[score], rel=1e-3, abs=1e-6), score
