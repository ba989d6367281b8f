"""Signals: what blurs, freezes or darkens a real picture moves its score the right way, and by what it should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.signals.motion import flow_values
from data_pipeline.signals.palette import COLOURS, colour_shares
from groundwork.media import read_frames
from tests.support.signals import FPS, scores


@pytest.fixture(scope="module")
def city(footage: Path) -> np.ndarray:
    return np.stack([f.image for f in read_frames(footage / "city.mpg", stop_seconds=0.6, short_side=256)])


def each(change: Callable[[np.ndarray], np.ndarray], frames: np.ndarray) -> np.ndarray:
    return np.stack([change(frame) for frame in frames])


def test_sharpness_falls_with_blur(city: np.ndarray) -> None:
    steps = [city, *(each(lambda f, s=sigma: cv2.GaussianBlur(f, (0, 0), s), city) for sigma in (1.0, 2.0, 4.0))]
    found = [scores(frames)["sharpness_score"] for frames in steps]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 15 < found[0]


def test_a_frozen_picture_has_no_motion_and_a_faster_film_more(city: np.ndarray) -> None:
    frozen = scores(np.repeat(city[:1], 15, axis=0))["motion_score"]
    slow, fast = scores(city)["motion_score"], scores(city[::2])["motion_score"]
    assert frozen < 0.01 < 1.0 < slow
    # Half of the frames at the same rate show twice the speed.
    assert fast == pytest.approx(2 * slow, rel=0.3)


def test_motion_does_not_depend_on_the_rate_it_was_filmed_at(city: np.ndarray) -> None:
    assert scores(city[::2], fps=FPS / 2)["motion_score"] == pytest.approx(scores(city)["motion_score"], rel=0.3)


def test_a_shifted_picture_moves_by_what_it_was_shifted(city: np.ndarray) -> None:
    # 4 of 256 rows a frame, small pictures of 144 rows: 1.5625 % of the short side, 25 times a second.
    moved = np.stack([city[0][:, 4 * i : 4 * i + 380] for i in range(10)])
    found = scores(moved)
    assert found["pan_score"] == pytest.approx(-100 * 4 / 256 * FPS, rel=0.15)
    assert abs(found["tilt_score"]) < 2
    assert found["motion_score"] == pytest.approx(abs(found["pan_score"]), rel=0.25)


def test_a_growing_flow_field_is_a_zoom() -> None:
    rows, columns = np.mgrid[0:90, 0:160].astype(np.float32)
    flow = 0.02 * np.stack([columns - 79.5, rows - 44.5], axis=2)
    everywhere = np.ones((90, 160), bool)
    found = flow_values(flow, seen=everywhere, textured=everywhere, seconds=0.04)
    assert found["zoom"] == pytest.approx(0.02, rel=1e-3)
    assert abs(found["flow_x"]) < 1e-3
    assert found["camera"] > 100 * found["subject"]


def test_darkening_lowers_the_light_and_raises_the_crushed_share(city: np.ndarray) -> None:
    found = [scores((city * share).astype(np.uint8)) for share in (1.0, 0.4, 0.05)]
    lights = [one["luma_mean"] for one in found]
    assert lights == sorted(lights, reverse=True)
    assert found[0]["dark_share"] < 0.1 < 0.5 < found[2]["dark_share"]
    assert scores(np.full_like(city, 255))["clipped_share"] == 1.0


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((10, 10, 10), "black"), ((128, 128, 128), "grey"), ((250, 250, 250), "white"), ((220, 20, 20), "red"),
        ((255, 140, 0), "orange"), ((110, 70, 30), "brown"), ((240, 230, 40), "yellow"), ((40, 160, 40), "green"),
        ((20, 170, 170), "teal"), ((30, 60, 220), "blue"), ((130, 40, 200), "purple"), ((250, 150, 180), "pink"),
    ],
)  # fmt: skip
def test_colours_have_the_names_people_give_them(rgb: tuple[int, int, int], name: str) -> None:
    shares = colour_shares(np.full((8, 8, 3), rgb, dtype=np.uint8))
    assert shares[name] == 1.0
    assert set(shares) == set(COLOURS)


def test_shares_of_colours_add_up_to_one(city: np.ndarray) -> None:
    assert sum(colour_shares(city[0]).values()) == pytest.approx(1.0)
