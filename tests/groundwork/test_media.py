"""Real footage in, exact frames out; broken footage gives an error that names the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from groundwork import media
from groundwork.errors import MediaError


def test_the_header_tells_size_rate_and_length(sample_videos: dict[str, Path]) -> None:
    header = media.probe(sample_videos["bigbuckbunny.mp4"])
    assert (header.codec, header.width, header.height, header.fps) == ("h264", 1280, 720, 25.0)
    assert header.num_frames_from_header == 132
    assert header.duration_seconds == pytest.approx(5.28)


def test_every_frame_is_read_once_and_in_order(sample_videos: dict[str, Path]) -> None:
    frames = list(media.read_frames(sample_videos["bikes.mp4"], short_side=64))
    seconds = [frame.seconds for frame in frames]
    assert len(frames) == 250
    assert seconds == sorted(set(seconds))
    assert min(frames[0].image.shape[:2]) == 64


def test_a_span_is_the_same_frames_as_the_whole(sample_videos: dict[str, Path]) -> None:
    path = sample_videos["cityCC0.mpg"]
    whole = [frame for frame in media.read_frames(path, short_side=64) if 2.0 <= frame.seconds < 3.0]
    span = list(media.read_frames(path, start_seconds=2.0, stop_seconds=3.0, short_side=64))
    assert [frame.pts for frame in span] == [frame.pts for frame in whole]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(span, whole, strict=True))


@pytest.mark.parametrize("fps", [8.0, 16.0, 25.0])
def test_sampling_shows_what_was_on_display_at_each_instant(sample_videos: dict[str, Path], fps: float) -> None:
    path, start = sample_videos["bigbuckbunny.mp4"], 1.0
    source = list(media.read_frames(path))
    clip = media.sample_clip(path, start_seconds=start, num_frames=9, fps=fps, height=96, width=144)
    for index, image in enumerate(clip):
        shown = [frame for frame in source if frame.seconds <= start + index / fps + 1e-6][-1]
        assert np.array_equal(image, media.cover(shown.image, height=96, width=144))


def test_a_clip_that_starts_at_zero_and_one_that_ends_at_the_end(sample_videos: dict[str, Path]) -> None:
    path = sample_videos["bigbuckbunny.mp4"]
    assert len(media.sample_clip(path, start_seconds=0.0, num_frames=17, fps=8, height=96, width=144)) == 17
    assert len(media.sample_clip(path, start_seconds=3.25, num_frames=17, fps=8, height=96, width=144)) == 17
    with pytest.raises(MediaError, match="ends before"):
        media.sample_clip(path, start_seconds=4.0, num_frames=17, fps=8, height=96, width=144)


def test_written_video_has_the_asked_size_frames_and_rate(tmp_path: Path, sample_videos: dict[str, Path]) -> None:
    clip = media.sample_clip(
        sample_videos["bigbuckbunny.mp4"], start_seconds=0, num_frames=17, fps=8, height=96, width=144
    )
    media.write_video(tmp_path / "a.mp4", clip, fps=8)
    media.write_video(tmp_path / "b.mp4", iter([clip[:5], clip[5:]]), fps=8)
    header = media.probe(tmp_path / "a.mp4")
    assert (header.width, header.height, header.fps) == (144, 96, 8.0)
    back = media.stack_frames(list(media.read_frames(tmp_path / "a.mp4")))
    assert back.shape == clip.shape
    assert np.abs(back.astype(int) - clip.astype(int)).mean() < 6
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_rotation_is_applied_to_size_and_pictures(shared_footage: Path) -> None:
    path = shared_footage / "fire_juggling_rotated180_vfr.mp4"
    header = media.probe(path)
    assert (header.rotation_degrees, header.width, header.height) == (180, 1280, 720)
    assert next(media.read_frames(path)).image.shape == (720, 1280, 3)


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\x00" * 4096])
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        media.probe(path)


def test_a_truncated_file_is_an_error_that_names_it(tmp_path: Path, sample_videos: dict[str, Path]) -> None:
    path = tmp_path / "half.mp4"
    whole = sample_videos["bikes.mp4"].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"half\.mp4"):
        list(media.read_frames(path))


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        media.probe(tmp_path / "none.mp4")


def test_odd_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="even"):
        media.write_video(tmp_path / "x.mp4", np.zeros((3, 95, 144, 3), np.uint8), fps=8)


def test_frames_tell_their_coded_bytes_and_show_themselves_at_full_size(sample_videos: dict[str, Path]) -> None:
    path = sample_videos["bikes.mp4"]
    coded, header = 0, media.probe(path)
    for index, frame in enumerate(media.read_frames(path, short_side=64, with_native=True)):
        coded += frame.coded_bytes
        if index == 0:
            luma, rgb = media.native_luma(frame), media.native_rgb(frame, long_side=160)
            assert luma.shape == (header.height, header.width)
            assert max(rgb.shape[:2]) == 160
            # Video range against full range: the same picture up to a straight line.
            grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
            small = cv2.resize(luma, grey.shape[::-1], interpolation=cv2.INTER_AREA)
            assert np.corrcoef(small.ravel(), grey.ravel())[0, 1] > 0.98
    assert 0.8 < coded / path.stat().st_size <= 1.0
