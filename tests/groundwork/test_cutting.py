"""Cutting: the frames of the span, all of them, at their times; copied ones equal, encoded ones near."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from groundwork.container import opened, pictures
from groundwork.cut_plan import CannotCopy
from groundwork.cutting import Cut, cut_copy, cut_encode, differences
from groundwork.errors import MediaError

FRAMES, TICK = 60, 512  # a frame every 512 units of 1/12800 s: 25 frames per second


def write(path: Path, *, options: dict[str, str], stamps: list[int] | None = None, codec: str = "libx264") -> Path:
    """Moving stripes over noise, coded with B-frames and a keyframe every 20 frames unless the options say else."""
    noise = np.random.default_rng(0).integers(0, 60, (96, 128, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12800)
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            image = noise.copy()
            image[:, (2 * number) % 120 :][:, :8] += 150
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = (stamps or range(0, FRAMES * TICK, TICK))[number], Fraction(1, 12800)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


X264 = {"preset": "veryfast", "x264-params": "keyint=20:min-keyint=20:scenecut=0:bframes=3:b-adapt=0", "crf": "28"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cutting") / "film.mp4", options=X264)


def stamps_of(path: Path) -> list[int]:
    with opened(path) as (container, stream):
        return [picture.pts for picture, _ in pictures(container, stream, path=path, on_damage=None)]


def check(path: Path, cut: Path, made: Cut, *, first: int, stop: int, end: int) -> None:
    stamps = stamps_of(path)
    found = list(differences(path, cut, start_pts=stamps[first], stop_pts=end))
    assert len(found) == made.num_frames == stop - first
    copied = found[made.first_copied : made.first_copied + made.copied_frames]
    assert all(math.isinf(value) for value in copied)
    assert min(found) > 40


@pytest.mark.parametrize(
    ("first", "stop", "copied", "head"),
    [(20, 40, 20, 0), (5, 55, 34, 15), (0, 60, 60, 0), (13, 30, 9, 7), (20, 47, 25, 0)],
)
def test_whole_groups_are_copied_and_only_the_ends_encoded(
    film: Path, tmp_path: Path, first: int, stop: int, copied: int, head: int
) -> None:
    target = tmp_path / "cut.mp4"
    made = cut_copy(film, target, start_pts=first * TICK, stop_pts=stop * TICK)
    assert (made.num_frames, made.first_copied) == (stop - first, head)
    assert abs(made.copied_frames - copied) <= 3  # where references allow the copy to end depends on the encoder
    check(film, target, made, first=first, stop=stop, end=stop * TICK)
    with opened(target) as (_, stream):
        assert stream.codec_context.name == "h264"
        assert float(stream.duration * stream.time_base) == pytest.approx((stop - first) / 25)


def test_equal_cuts_are_equal_bytes(film: Path, tmp_path: Path) -> None:
    for cut, options in ((cut_copy, {}), (cut_encode, {"crf": 20})):
        for name in ("one", "two"):
            cut(film, tmp_path / name, start_pts=7 * TICK, stop_pts=50 * TICK, **options)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_uneven_times_stay_as_they_are(tmp_path: Path) -> None:
    stamps = np.cumsum(np.random.default_rng(1).integers(200, 1500, FRAMES)).tolist()
    film = write(tmp_path / "uneven.mp4", options=X264, stamps=stamps)
    stamps = stamps_of(film)
    target = tmp_path / "cut.mp4"
    for cut, options in ((cut_copy, {}), (cut_encode, {"crf": 12})):
        made = cut(film, target, start_pts=stamps[9], stop_pts=stamps[50], **options)
        check(film, target, made, first=9, stop=50, end=stamps[50])


def test_streams_without_lengths_and_with_open_groups_are_cut_too(tmp_path: Path) -> None:
    """A transport stream (start codes, parameter sets inside) whose first keyframes do not clear the memory."""
    options = {**X264, "x264-params": X264["x264-params"] + ":open-gop=1"}
    film = write(tmp_path / "film.ts", options=options)
    stamps, target = stamps_of(film), tmp_path / "cut.mp4"
    with pytest.raises(CannotCopy, match="no keyframe starts"):
        cut_copy(film, target, start_pts=stamps[5], stop_pts=stamps[55])
    film = write(tmp_path / "closed.ts", options=X264)
    stamps = stamps_of(film)
    made = cut_copy(film, target, start_pts=stamps[5], stop_pts=stamps[55])
    assert made.copied_frames > 30
    check(film, target, made, first=5, stop=55, end=stamps[55])


def test_what_cannot_be_copied_is_said_and_can_be_encoded(film: Path, tmp_path: Path) -> None:
    target = tmp_path / "cut.mp4"
    with pytest.raises(CannotCopy, match="no keyframe"):
        cut_copy(film, target, start_pts=3 * TICK, stop_pts=18 * TICK)
    check(
        film,
        target,
        cut_encode(film, target, start_pts=3 * TICK, stop_pts=18 * TICK, crf=12),
        first=3,
        stop=18,
        end=9216,
    )
    mpeg4 = write(tmp_path / "film.avi", options={"g": "20"}, codec="mpeg4")
    with pytest.raises(CannotCopy):
        cut_copy(mpeg4, target, start_pts=5, stop_pts=50)


def test_a_cut_with_other_frames_is_told_from_its_source(film: Path, tmp_path: Path) -> None:
    target = tmp_path / "cut.mp4"
    cut_encode(film, target, start_pts=3 * TICK, stop_pts=18 * TICK, crf=12)
    for start, stop in ((3, 19), (3, 17)):
        with pytest.raises(MediaError, match="frame"):
            list(differences(film, target, start_pts=start * TICK, stop_pts=stop * TICK))
    with pytest.raises(MediaError, match="no frame"):
        cut_encode(film, target, start_pts=90 * TICK, stop_pts=99 * TICK, crf=12)
