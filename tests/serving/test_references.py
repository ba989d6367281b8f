"""What a client sends to start from is judged by its bytes, within limits, before it is decoded."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from groundwork.media import write_video
from serving.errors import RequestError
from serving.references import Limits, check_length, checked, clip_of, image_of

TWO_HALVES = np.zeros((48, 64, 3), np.uint8)
TWO_HALVES[:24] = 255


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def picture() -> Image.Image:
    return Image.fromarray(TWO_HALVES)


def movie(folder: Path, name: str = "clip.mp4", *, frames: int = 9, fps: float = 8) -> bytes:
    levels = np.linspace(0, 255, frames).astype(np.uint8)
    clip = np.broadcast_to(levels[:, None, None, None], (frames, 48, 64, 3))
    path = folder / "clip.mp4"
    write_video(path, np.ascontiguousarray(clip), fps=fps)
    if name != "clip.mp4":
        with av.open(str(path)) as source, av.open(str(folder / name), "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
    return (folder / name).read_bytes()


def refusal(data: bytes, limits: Limits | None = None) -> tuple[int, str]:
    with pytest.raises(RequestError) as refused:
        checked(data, limits=limits or Limits())
    assert refused.value.param == "input_reference"
    assert "/tmp" not in refused.value.message
    return refused.value.status, refused.value.code


@pytest.mark.parametrize(("form", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")])
def test_an_image_is_known_by_its_bytes(form: str, suffix: str) -> None:
    data = encoded(picture(), form)
    file = checked(data)
    assert (file.kind, file.suffix, file.width, file.height, file.frames) == ("image", suffix, 64, 48, 1)
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert np.abs(image_of(data).astype(int) - TWO_HALVES).mean() < 3


def test_every_kind_of_pixel_becomes_rgb() -> None:
    grey16 = Image.fromarray(np.where(TWO_HALVES[..., 0] > 0, 65_535, 0x1200).astype(np.uint16))
    assert image_of(encoded(grey16, "PNG"))[[0, -1], 0].tolist() == [[255] * 3, [0x12] * 3]
    clear = picture().convert("RGBA")
    clear.putalpha(0)
    assert image_of(encoded(clear, "PNG")).min() == 255
    cmyk = image_of(encoded(picture().convert("CMYK"), "JPEG", quality=95))
    assert np.abs(cmyk.astype(int) - TWO_HALVES).mean() < 3
    palette = picture().quantize(2)
    palette.info["transparency"] = 0
    assert image_of(encoded(palette, "PNG")).shape == (48, 64, 3)


def test_a_turned_photo_stands_upright_and_of_many_pictures_the_first_counts() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    data = encoded(picture(), "JPEG", exif=exif, quality=95)
    assert (checked(data).width, checked(data).height) == (48, 64)
    assert image_of(data)[:, -1].min() > 200
    for form in ("GIF", "PNG", "WEBP"):
        data = encoded(picture(), form, save_all=True, append_images=[Image.new("RGB", (64, 48))] * 3, lossless=True)
        assert np.array_equal(image_of(data), TWO_HALVES)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mov", "clip.mkv"])
def test_a_video_is_known_by_its_bytes_and_cut_at_its_own_speed(name: str, tmp_path: Path) -> None:
    data = movie(tmp_path, name)
    file = checked(data)
    assert (file.kind, file.suffix, file.width, file.height, file.frames) == ("video", name[4:], 64, 48, 9)
    assert file.seconds == pytest.approx(9 / 8, abs=0.01)
    half_speed = clip_of(tmp_path / name, num_frames=9, fps=16, height=32, width=32)
    assert half_speed.shape == (9, 32, 32, 3)
    assert np.array_equal(half_speed[0], half_speed[1])
    assert half_speed[8].mean() == pytest.approx(255 / 2, abs=6)
    check_length(file, num_frames=9, fps=8)
    for refused in (
        lambda: check_length(file, num_frames=17, fps=8),
        lambda: clip_of(tmp_path / name, num_frames=17, fps=8, height=32, width=32),
    ):
        with pytest.raises(RequestError, match="cannot be used"):
            refused()


def test_limits_hold_before_anything_is_decoded(tmp_path: Path) -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb += chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    assert refusal(bomb) == (413, "input_too_large")
    assert refusal(encoded(picture(), "PNG"), Limits(most_pixels=64 * 48 - 1)) == (413, "input_too_large")
    assert refusal(encoded(picture(), "PNG"), Limits(most_bytes=100)) == (413, "input_too_large")
    assert refusal(encoded(Image.new("RGB", (400, 20)), "PNG")) == (400, "reference_unreadable")
    assert refusal(encoded(Image.new("RGB", (8, 8)), "PNG")) == (400, "reference_unreadable")
    video = movie(tmp_path)
    assert refusal(video, Limits(most_pixels=64 * 48 - 1)) == (413, "input_too_large")
    assert refusal(video, Limits(most_frames=8)) == (413, "input_too_large")
    assert refusal(video, Limits(most_video_pixels=9 * 64 * 48 - 1)) == (413, "input_too_large")
    assert checked(video, limits=Limits(most_video_pixels=9 * 64 * 48)).frames == 9
    with pytest.raises(RequestError, match="cannot be used"):
        clip_of(tmp_path / "clip.mp4", num_frames=9, fps=8, height=32, width=32, limits=Limits(most_pixels=3000))


def test_what_is_no_picture_is_refused_whatever_it_calls_itself(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(movie(tmp_path))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode()
    listing = f"ffconcat version 1.0\nfile '{secret}'\n".encode()
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"
    disguised = b"\0\0\0\x20ftypisom" + playlist
    for data in (b"", b"nothing", playlist, listing, drawing, disguised, b"\0\0\0\x20ftypheic" + bytes(64)):
        assert refusal(data) == (400, "reference_unreadable")


@pytest.mark.parametrize("keep", [0.05, 0.5, 0.95])
def test_what_is_cut_off_is_refused(keep: float, tmp_path: Path) -> None:
    whole = [encoded(Image.effect_noise((64, 48), 90).convert("RGB"), form) for form in ("PNG", "JPEG", "WEBP", "GIF")]
    whole += [movie(tmp_path, name) for name in ("clip.mp4", "clip.mov")]
    for data in whole:
        assert refusal(data[: int(len(data) * keep)]) == (400, "reference_unreadable")


def test_noise_behind_a_true_beginning_is_refused_and_breaks_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    starts = [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"RIFF\x00\x10\x00\x00WEBPVP8 ",
        b"\x1a\x45\xdf\xa3",
    ]
    for start in [*starts, b"\0\0\0\x20ftypisom", movie(tmp_path)[:600]]:
        assert refusal(start + noise)[1] in ("reference_unreadable", "input_too_large")
