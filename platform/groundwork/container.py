"""A video file becomes an opened stream and its decoded pictures; damaged places are raised or skipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from groundwork.errors import MediaError

OnDamage = Callable[[MediaError], None]
"""Told of every damaged place, when all frames before it were given out."""

# Playlists and scripts (hls, concat, …) name other files and hosts: a video may not make us open them.
_FORMATS = (
    "3dostr,aac,asf,av1,avi,dv,flv,gif,h261,h263,h264,hevc,image2,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mp3,mp4,mpeg,"
    "mpegts,mpegtsraw,mpegvideo,mxf,nut,obu,ogg,png_pipe,rm,vc1,vvc,wav,webm,webp_pipe,wtv,yuv4mpegpipe"
)


@contextmanager
def opened(path: str | Path, *, max_pixels: int = 0) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream (cover pictures of audio files do not count), one decoding thread.

    With `max_pixels` the decoder refuses larger pictures, also ones that come later in the stream. Raises MediaError
    when the file is missing, is not video, or asks for other files.
    """
    try:
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
        container = av.open(str(path), mode="r", metadata_errors="ignore", options=options)
    except av.error.FileNotFoundError as error:
        raise MediaError(f"{path}: no such file.", "Check the path.") from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        hint = "The file is empty, cut off, or not a video."
        raise MediaError(f"{path}: cannot be opened as video: {error}", hint) from error
    with container:
        films = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
        if not films:
            raise MediaError(f"{path}: holds no video stream.", "Is it an audio file?")
        if films[0].codec_context is None:
            raise MediaError(f"{path}: its video stream is coded in a way that is not known here.")
        films[0].codec_context.thread_count = 1
        if max_pixels:
            films[0].codec_context.options = {"max_pixels": str(max_pixels)}
        yield container, films[0]


def pictures(container: Any, stream: Any, *, path: str | Path, on_damage: OnDamage | None) -> Iterator[tuple[Any, int]]:
    """Decoded pictures with strictly rising time stamps, each with the bytes of the packets that bear its stamp.

    A picture without a stamp, or with one that does not rise, cannot be addressed and is left out. Raises MediaError at
    a packet that cannot be decoded; with `on_damage` that is told instead, and decoding goes on at the next keyframe.
    """
    last: int | None = None
    for picture, coded_bytes in _decoded(container, stream, path, on_damage):
        if picture.pts is not None and (last is None or picture.pts > last):
            last = picture.pts
            yield picture, coded_bytes


def _decoded(container: Any, stream: Any, path: str | Path, on_damage: OnDamage | None) -> Iterator[tuple[Any, int]]:
    coded: dict[int | None, int] = {}
    packets, waiting = container.demux(stream), False
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            yield from ((picture, coded.pop(picture.pts, 0)) for picture in _flush(stream))
            _damaged(path, error, on_damage)
            return
        if packet is None or (packet.dts is None and packet.size == 0):
            yield from ((picture, coded.pop(picture.pts, 0)) for picture in _flush(stream))
            return
        if waiting and not packet.is_keyframe:
            continue
        waiting = False
        coded[packet.pts] = coded.get(packet.pts, 0) + packet.size
        try:
            ready = packet.decode()
        except av.error.FFmpegError as error:
            yield from ((picture, coded.pop(picture.pts, 0)) for picture in _flush(stream))
            _damaged(path, error, on_damage)
            stream.codec_context.flush_buffers()
            waiting = True
            continue
        for picture in ready:
            yield picture, coded.pop(picture.pts, 0)


def _flush(stream: Any) -> list[Any]:
    """The pictures that wait inside the decoder for their turn."""
    try:
        return list(stream.codec_context.decode(None))
    except av.error.FFmpegError:
        return []


def _damaged(path: str | Path, error: av.error.FFmpegError, on_damage: OnDamage | None) -> None:
    damage = MediaError(f"{path}: decoding failed: {error}", "The file is damaged from here on.")
    if on_damage is None:
        raise damage from error
    on_damage(damage)


def display_size(stream: Any, picture: Any) -> tuple[int, int]:
    """(rows, columns) of a picture with square pixels, before rotation: anamorphic ones are widened or narrowed."""
    ratio = Fraction(stream.sample_aspect_ratio or 1)
    return picture.height, max(1, round(picture.width * ratio)) if ratio > 0 else picture.width
