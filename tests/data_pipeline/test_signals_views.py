"""Hashes of parts of the picture: what a crop or a frame of black does to a picture, a view undoes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data_pipeline.signals.phash import perceptual_hash
from data_pipeline.signals.picture import picture_of
from data_pipeline.signals.views import COLUMNS, VIEWS, Views, content_box, view_hashes
from groundwork import media

CLOSE = 8


def bits(left: int, right: int) -> int:
    return (left ^ right).bit_count()


@pytest.fixture(scope="module")
def luma(footage: Path) -> np.ndarray:
    frame = next(media.read_frames(footage / "bunny.mp4", start_seconds=2.0, short_side=256))
    return picture_of(frame.image).luma


@pytest.mark.parametrize("number", range(1, len(VIEWS)))
def test_each_view_is_the_hash_of_the_picture_cropped_like_it(luma: np.ndarray, number: int) -> None:
    left, top, right, bottom = VIEWS[number]
    height, width = luma.shape
    part = luma[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    half = cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert bits(perceptual_hash(half), view_hashes(luma)[number]) <= CLOSE
    assert bits(perceptual_hash(luma[:, ::-1]), view_hashes(luma)[number]) > 2 * CLOSE


def test_black_bars_are_left_out_and_a_dark_picture_is_not_a_bar(luma: np.ndarray) -> None:
    framed = np.pad(luma, ((30, 30), (0, 0)))
    assert content_box(framed) == (30, 30 + luma.shape[0], 0, luma.shape[1])
    assert bits(view_hashes(framed)[0], perceptual_hash(luma)) <= CLOSE
    assert view_hashes(luma)[0] == 0
    dark = np.full((144, 256), 10, dtype=np.uint8)
    dark[:20] = 90
    assert content_box(dark) == (0, 144, 0, 256)
    assert view_hashes(np.zeros((144, 256), dtype=np.uint8)) == [0] * len(VIEWS)


def test_four_frames_per_second_are_looked_at() -> None:
    views, rgb = Views(), np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    values = [views.update(picture_of(rgb, seconds=frame / 24)) for frame in range(25)]
    assert [frame for frame, value in enumerate(values) if any(value.values())] == [0, 6, 12, 18, 24]
    assert all(set(value) == set(COLUMNS) for value in values)
