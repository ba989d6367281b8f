"""Colours come out as a screen shows them, whatever matrix, range, transfer, gamut or transparency a film has."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from groundwork import colour, media
from tests.support.films import write_film

BARS = np.array(
    [[235] * 3, [191, 191, 0], [0, 191, 191], [0, 191, 0], [191, 0, 191], [191, 0, 0], [0, 0, 191], [16] * 3], np.uint8
)
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def bars(height: int, width: int) -> np.ndarray:
    return np.repeat(np.repeat(BARS[None], height, axis=0), width // len(BARS), axis=1)


def worst(image: np.ndarray, expected: np.ndarray = BARS) -> int:
    """Largest difference of a level, in the middles of the bars and away from their edges."""
    middles = (np.arange(len(BARS)) * 2 + 1) * image.shape[1] // (2 * len(BARS))
    return int(np.abs(image[image.shape[0] // 2, middles].astype(int) - expected).max())


def check_mapped(image: np.ndarray, expected: np.ndarray) -> None:
    """Within 4 levels; 10 bits hold the darkest channel of a saturated colour less well."""
    middles = (np.arange(len(BARS)) * 2 + 1) * image.shape[1] // (2 * len(BARS))
    off = np.abs(image[image.shape[0] // 2, middles].astype(int) - expected)
    assert off[expected >= 30].max() <= 4
    assert off.max() <= 16


def coded(image: np.ndarray, weights: tuple[float, float], *, full: bool, form: str = "yuv420p") -> Any:
    """RGB as a picture, by the textbook (BT.601-7 and BT.709-6, section 3)."""
    red, blue = weights
    r, g, b = (image[..., channel].astype(float) for channel in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    planes = [y, u[::2, ::2] + 128, v[::2, ::2] + 128]
    if not full:
        planes = [16 + y * 219 / 255, *(128 + c[::2, ::2] * 224 / 255 for c in (u, v))]
    flat = np.concatenate([np.rint(plane).astype(np.uint8).reshape(-1, image.shape[1]) for plane in planes])
    return av.VideoFrame.from_ndarray(flat, format=form)


@pytest.mark.parametrize(("height", "width"), [(480, 720), (1080, 1920)])
def test_written_colour_bars_come_back_within_two_levels(tmp_path: Path, height: int, width: int) -> None:
    media.write_video(tmp_path / "bars.mp4", bars(height, width)[None].repeat(3, axis=0), fps=8)
    frames = list(media.read_frames(tmp_path / "bars.mp4", with_native=True))
    assert len(frames) == 3
    assert max(worst(frame.image) for frame in frames) <= 2
    native = frames[0].native
    assert (native.colorspace, native.color_range, native.color_trc) == (1 if height > 576 else 6, 1, 1)
    clip = media.sample_clip(tmp_path / "bars.mp4", start_seconds=0, num_frames=2, fps=8, height=240, width=320)
    assert worst(clip[0], expected=clip[0][120, 20::40].astype(int)) == 0


@pytest.mark.parametrize("quality", [colour.FAST, colour.EXACT])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("weights", "tag", "height", "width"),
    [(BT601, 6, 1080, 1920), (BT709, 1, 480, 640), (BT601, 2, 480, 640), (BT709, 2, 720, 1280), (BT601, 2, 576, 720)],
)
def test_tags_decide_and_where_there_are_none_the_size(
    weights: tuple[float, float], tag: int, height: int, width: int, full: bool, quality: Any
) -> None:
    picture = coded(bars(height, width), weights, full=full)
    picture.colorspace, picture.color_range = tag, 2 if full else 0
    assert worst(colour.to_rgb(picture, height=height, width=width, quality=quality)) <= 3
    assert worst(colour.to_rgb(picture, height=height // 2, width=width // 2, quality=quality)) <= 3


def test_films_keep_their_matrix_and_range_on_every_path(tmp_path: Path) -> None:
    picture = coded(bars(480, 640), BT709, full=True, form="yuvj420p")
    path = write_film(
        tmp_path / "full.mkv",
        [picture, coded(bars(480, 640), BT709, full=True, form="yuvj420p")],
        stamps=[0, 1],
        time_base=Fraction(1, 25),
        options={"crf": "4"},
        tags={"colorspace": 1, "color_range": 2},
    )
    whole, small = (next(media.read_frames(path, short_side=side, with_native=True)) for side in (None, 240))
    sampled = media.sample_clip(path, start_seconds=0, num_frames=1, fps=8, height=480, width=640)[0]
    for image in (whole.image, small.image, sampled, media.native_rgb(whole, long_side=320)):
        assert worst(image) <= 4


@pytest.mark.parametrize("space", [0, 3, 8, 14])
def test_an_odd_or_reserved_matrix_is_no_reason_to_fail(space: int) -> None:
    picture = coded(bars(480, 640), BT601, full=False)
    picture.colorspace = space
    assert worst(colour.to_rgb(picture, height=480, width=640)) <= 3


def wide(image: np.ndarray, *, transfer: str) -> Any:
    """RGB of BT.709 as a 10-bit picture of BT.2020 in PQ or HLG, its white at 203 cd/m²; SDR as BT.2020 alone."""
    light = (image / 255.0) ** 2.4 @ np.linalg.inv(colour._to_bt709(colour.ColorPrimaries.BT2020)).T.astype(float)
    light = np.clip(light, 0, None)
    if transfer == "pq":
        signal = colour.pq_encode(light * 203)
    elif transfer == "hlg":
        table = colour._hlg_display(np.repeat(colour._eotf("hlg")[:, None], 3, axis=1))[:, 0]
        assert image.max(axis=-1).tolist() == image.min(axis=-1).tolist(), "greys alone: the system gamma mixes colours"
        signal = np.searchsorted(table, light) / 65535
    else:
        signal = light ** (1 / 2.4)
    red, blue = 0.2627, 0.0593
    r, g, b = (signal[..., channel] for channel in range(3))
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    planes = [64 + 876 * y, *(512 + 896 * c[::2, ::2] for c in (u, v))]
    picture = av.VideoFrame(image.shape[1], image.shape[0], "yuv420p10le")
    for plane, values in zip(picture.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
        rows[:, : plane.width] = np.rint(values)
        plane.update(rows)
    picture.colorspace, picture.color_range, picture.color_primaries = 9, 1, 9
    picture.color_trc = {"pq": 16, "hlg": 18, "sdr": 14}[transfer]
    return picture


def test_high_dynamic_range_shows_what_a_standard_film_shows_below_the_knee() -> None:
    dim = bars(64, 128) // 4 * 3
    expected = BARS.astype(int) // 4 * 3
    for quality in (colour.FAST, colour.EXACT):
        check_mapped(colour.to_rgb(wide(dim, transfer="pq"), height=64, width=128, quality=quality), expected)
    untreated = wide(dim, transfer="pq")
    untreated.color_trc, untreated.color_primaries = 1, 1
    assert worst(colour.to_rgb(untreated, height=64, width=128), expected) > 60, "the test would pass without mapping"
    greys = np.repeat(np.arange(0, 128, dtype=np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    mapped = colour.to_rgb(wide(greys, transfer="hlg"), height=64, width=128)
    assert np.abs(mapped[32].astype(int) - greys[32]).max() <= 3


def test_a_wide_gamut_of_standard_range_is_mapped_without_touching_light() -> None:
    check_mapped(colour.to_rgb(wide(bars(64, 128), transfer="sdr"), height=64, width=128), BARS.astype(int))


def test_highlights_roll_off_without_a_step_and_never_fall() -> None:
    nits = np.geomspace(0.01, 10_000, 500)
    shown = colour.roll_off(nits)
    assert (np.diff(shown) >= -1e-9).all()
    assert shown[nits < 80] == pytest.approx(nits[nits < 80])
    assert shown[-1] == pytest.approx(203)
    assert 140 < float(colour.roll_off(203.0)) < 175
    for level in (0.0, 50.0, 1000.0):
        assert float(colour.pq_decode(colour.pq_encode(level))) == pytest.approx(level, abs=1e-6)


def test_what_is_transparent_lies_on_white() -> None:
    image = np.zeros((32, 32, 4), np.uint8)
    image[:, :16] = (200, 10, 10, 255)
    image[:, 16:24] = (0, 0, 0, 128)
    picture = av.VideoFrame.from_ndarray(image, format="rgba")
    shown = colour.to_rgb(picture, height=32, width=32)
    assert [shown[5, column].tolist() for column in (4, 20, 30)] == [[200, 10, 10], [127] * 3, [255] * 3]
    half = colour.to_rgb(picture, height=16, width=16)
    assert half[5, 2].tolist() == [200, 10, 10]
    assert half[5, 15].tolist() == [255] * 3


def test_the_tagged_sample_is_mapped(shared_footage: Path) -> None:
    path = shared_footage / "nasa_telescope_hevc10_hdr.mp4"
    frame = next(media.read_frames(path, start_seconds=6.0, with_native=True))
    assert colour.colours_of(frame.native).transfer == "pq"
    assert np.abs(frame.image.astype(int) - frame.native.to_ndarray(format="rgb24")).mean() > 5
