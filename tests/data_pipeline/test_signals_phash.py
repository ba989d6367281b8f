"""Perceptual hashes: copies of a picture stay near it, other pictures do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data_pipeline.signals.phash import hamming, perceptual_hash, score


def scenery(seed: int, *, height: int = 144, width: int = 256) -> np.ndarray:
    """A picture with structure on all scales, unlike that of any other seed."""
    noise = np.random.default_rng(seed).standard_normal((height, width)).astype(np.float32)
    layers = sum(cv2.GaussianBlur(noise, (0, 0), sigma) * sigma for sigma in (2, 6, 18, 40))
    return cv2.normalize(layers, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def distance(left: np.ndarray, right: np.ndarray) -> int:
    return int(hamming(*(np.array([perceptual_hash(image)], np.uint64) for image in (left, right)))[0])


def jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_GRAYSCALE)


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.7 + 20).astype(np.uint8)


def smaller(image: np.ndarray) -> np.ndarray:
    return cv2.resize(image, (96, 54), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("change", [jpeg, darker, smaller])
def test_a_copy_differs_in_few_bits(change: object) -> None:
    assert callable(change)
    assert max(distance(scenery(seed), change(scenery(seed))) for seed in range(8)) <= 6


def test_other_pictures_differ_in_about_half_of_the_bits() -> None:
    found = [distance(scenery(seed), scenery(seed + 1)) for seed in range(12)]
    assert 24 <= np.mean(found) <= 40
    assert min(found) > 12


def test_a_picture_of_one_colour_says_nothing() -> None:
    assert [perceptual_hash(np.full((90, 160), value, np.uint8)) for value in (0, 128, 255)] == [0, 0, 0]


def test_the_change_of_a_clip_is_the_distance_half_a_second_apart() -> None:
    seconds = np.arange(50) / 25
    still = np.full(50, 7, np.uint64)
    jump = still.copy()
    jump[25:] = 7 ^ 0xFF
    assert score({"phash": still, "seconds": seconds}) == {"phash_change": 0.0}
    # 13 frames of 37 look from before the jump to behind it, 8 bits away.
    assert score({"phash": jump, "seconds": seconds})["phash_change"] == pytest.approx(8 * 13 / 37)
