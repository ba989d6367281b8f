"""The decode pass: parts agree with the whole, damage costs what is damaged, odd films are measured as shown."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from data_pipeline.analysis import Analysis, analyse, join
from data_pipeline.parts import WHOLE, Part, plan_parts
from groundwork import media
from groundwork.errors import MediaError, TooLargeError, TooLongError


def measure(path: Path, **arguments: object) -> Analysis:
    return analyse(path, header=media.probe(path), **arguments)  # type: ignore[arg-type]


def write(
    path: Path,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 96),
    stamps: list[int] | None = None,
    gop: int = 10,
    ratio: Fraction | None = None,
    container: str | None = None,
) -> Path:
    """A tiny film: noise that moves right, `stamps` in 1/100 s; of 30 frames at 25 per second if none are given."""
    height, width = size
    noise = np.random.default_rng(1).integers(0, 255, (height // 4 + 1, width, 3), np.uint8)
    texture = cv2.resize(noise, (2 * width, height), interpolation=cv2.INTER_CUBIC)
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        stream.codec_context.gop_size, stream.codec_context.thread_count = gop, 1
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for index, stamp in enumerate(stamps or [4 * index for index in range(30)]):
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(texture[:, index % width : index % width + width]), format="rgb24"
            )
            picture.pts, picture.time_base = stamp, Fraction(1, 100)
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
    return path


def damage(path: Path, frame: int) -> Path:
    """Spoil the packet of a frame: no decoder can read it, and those that build on it are lost as well."""
    with av.open(str(path)) as container:
        packet = next(packet for index, packet in enumerate(container.demux(video=0)) if index == frame)
        position = packet.pos
    data = bytearray(path.read_bytes())
    data[position : position + 8] = b"\xff" * 8
    spoiled = path.with_stem(f"{path.stem}_spoiled")
    spoiled.write_bytes(data)
    return spoiled


def parts_of(path: Path, split_seconds: float) -> list[Part]:
    header = media.probe(path)
    seconds = media.keyframe_seconds(path)
    return plan_parts(seconds, duration_seconds=header.duration_seconds, fps=header.fps, split_seconds=split_seconds)


def assert_same(joined: Analysis, whole: Analysis) -> None:
    assert joined.header == whole.header
    assert (joined.damage, joined.cut_off) == (whole.damage, whole.cut_off)
    assert joined.frames.schema.equals(whole.frames.schema)
    assert joined.frames["thumbnail"].to_pylist() == whole.frames["thumbnail"].to_pylist()
    left, right = joined.series(), whole.series()
    for name, values in right.items():
        np.testing.assert_array_equal(left[name], values, err_msg=name)


@pytest.fixture(scope="module")
def long_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 s, a keyframe each second."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    return write(path, stamps=[4 * index for index in range(400)], gop=25)


def test_parts_of_a_real_film_make_the_table_of_the_whole(footage: Path) -> None:
    path = footage / "bikes.mp4"
    parts = parts_of(path, 3.0)
    assert len(parts) == 2
    assert_same(join([measure(path, part=part) for part in parts]), measure(path))


@pytest.mark.parametrize("frame", [60, 160, 399])
def test_parts_agree_with_the_whole_where_the_film_is_damaged(long_film: Path, frame: int) -> None:
    path = damage(long_film, frame)
    parts = parts_of(path, 4.0)
    assert len(parts) == 3
    whole = measure(path)
    assert_same(join([measure(path, part=part) for part in parts]), whole)
    first = int(whole.damage_detail().split()[2])
    assert abs(first - frame) <= 4
    assert f"after {first} frames" in whole.damage_detail()
    assert 400 - 29 <= whole.frames.num_rows < 400


def test_a_sound_film_tells_of_no_damage_and_comes_back_from_its_table(long_film: Path) -> None:
    whole = measure(long_film)
    assert (whole.damage_detail(), whole.frames.num_rows) == ("", 400)
    assert not whole.series()["gap"].any()
    assert Analysis.from_table(whole.to_table()) == whole


def test_short_films_and_films_without_an_index_stay_whole() -> None:
    every_second = [float(second) for second in range(100)]
    assert plan_parts(every_second, duration_seconds=100, fps=25, split_seconds=0) == [WHOLE]
    assert plan_parts(every_second, duration_seconds=100, fps=25, split_seconds=99) == [WHOLE]
    assert plan_parts([], duration_seconds=100, fps=25, split_seconds=10) == [WHOLE]
    parts = plan_parts(every_second, duration_seconds=100, fps=25, split_seconds=10)
    assert len(parts) == 10
    assert [part.stop_seconds for part in parts[:-1]] == [part.start_seconds for part in parts[1:]]
    assert parts[-1].stop_seconds is None


@pytest.mark.parametrize(
    ("name", "settings", "size"),
    [
        ("odd_size.mkv", {"codec": "ffv1", "size": (63, 97), "pix_fmt": "yuv444p"}, (97, 63)),
        ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}, (96, 64)),
        ("alpha.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le"}, (96, 64)),
        ("anamorphic.mp4", {"ratio": Fraction(2, 1)}, (192, 64)),
        ("no_index.ts", {}, (96, 64)),
        ("really_matroska.mp4", {"container": "matroska"}, (96, 64)),
    ],
)
def test_odd_films_are_measured_at_the_size_they_are_shown(
    tmp_path: Path, name: str, settings: dict[str, object], size: tuple[int, int]
) -> None:
    path = write(tmp_path / name, **settings)  # type: ignore[arg-type]
    found = measure(path)
    assert (found.header.width, found.header.height, found.frames.num_rows) == (*size, 30)
    frame = next(media.read_frames(path))
    assert frame.image.shape == (size[1], size[0], 3)


def test_a_variable_rate_is_kept_to_the_time_stamp(tmp_path: Path) -> None:
    stamps = [0, 4, 8, 20, 21, 50]
    found = measure(write(tmp_path / "vfr.mp4", stamps=stamps)).series()
    assert list(found["seconds"]) == pytest.approx([stamp / 100 for stamp in stamps])
    base = found["pts"][1] / 4
    assert list(found["pts"] / base) == stamps


def test_one_frame_is_a_film_and_sound_alone_is_none(tmp_path: Path) -> None:
    assert measure(write(tmp_path / "one.mp4", stamps=[0])).frames.num_rows == 1
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 48000
        container.mux([*stream.encode(sound), *stream.encode()])
    with pytest.raises(MediaError, match="no video stream"):
        media.probe(tmp_path / "sound.mp4")


def test_a_film_that_names_other_files_opens_none_of_them(footage: Path, tmp_path: Path) -> None:
    for text in (f"ffconcat version 1.0\nfile '{footage}/bunny.mp4'\n", f"#EXTM3U\n#EXTINF:5,\n{footage}/bunny.mp4\n"):
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(MediaError, match="cannot be opened"):
            media.probe(tmp_path / "list.mp4")


def test_limits_on_frames_and_pixels_are_errors_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mp4")
    with pytest.raises(TooLongError, match="more than 29 frames"):
        measure(path, max_frames=29)
    assert measure(path, max_frames=30).frames.num_rows == 30
    with pytest.raises(TooLargeError, match="96x64 is more than 6143 pixels"):
        media.probe(path, max_pixels=6143)
