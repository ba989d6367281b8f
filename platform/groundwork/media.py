"""The one door to video: a file becomes a header or RGB frames, frames become an mp4."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from jaxtyping import UInt8

from groundwork import colour
from groundwork.container import OnDamage, display_size, opened, pictures
from groundwork.errors import MediaError, TooLargeError
from groundwork.instants import Instants, exact_rate
from groundwork.planes import Planes, small_planes

Frames = UInt8[np.ndarray, "t h w c"]
_ALONE_SECONDS = 0.04
"""How long a picture is shown that is the only one."""


@dataclass(frozen=True)
class VideoHeader:
    """What the container says of its first video stream; size is as displayed: square pixels, rotation applied."""

    container: str
    codec: str
    pixel_format: str
    width: int
    height: int
    rotation_degrees: int
    fps: float
    duration_seconds: float
    num_frames_from_header: int
    time_base: Fraction
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    """One decoded picture: `pts` counts `time_base` units of the stream, `image` is RGB `[h, w, 3]` uint8.

    `coded_bytes` is what it takes up in the file, 0 where the container does not say. `native` is the decoder's own
    picture at full size, for `native_luma` and `native_rgb`; None unless asked for, as it holds on to much memory.
    """

    pts: int
    seconds: float
    image: UInt8[np.ndarray, "h w c"]
    coded_bytes: int = 0
    native: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class SmallFrame:
    """One decoded picture for measuring: as `Frame`, with small `planes` in place of an RGB image."""

    pts: int
    seconds: float
    planes: Planes
    coded_bytes: int = 0
    native: Any = field(default=None, repr=False, compare=False)


def probe(path: str | Path, *, max_pixels: int = 0) -> VideoHeader:
    """Read the header; the first frame that can be decoded tells the rotation.

    Raises MediaError when the file is missing, empty, unreadable, or holds no video stream; TooLargeError, before any
    decoding, when its pictures have more than `max_pixels` (0: any size).
    """
    with opened(path) as (container, stream):
        coded = stream.codec_context
        if not coded.width or not coded.height:
            raise MediaError(f"{path}: the video stream has no picture size.", "Is the file damaged?")
        if max_pixels and coded.width * coded.height > max_pixels:
            raise TooLargeError(f"{path}: {coded.width}x{coded.height} is more than {max_pixels} pixels.")
        rotation = _rotation(container, stream, path)
        height, width = display_size(stream, coded)
        turned = rotation % 180 == 90
        duration = _duration_seconds(container, stream)
        return VideoHeader(
            container=container.format.name.split(",")[0],
            codec=stream.codec_context.name,
            pixel_format=stream.codec_context.pix_fmt or "unknown",
            width=height if turned else width,
            height=width if turned else height,
            rotation_degrees=rotation,
            fps=float(stream.average_rate or stream.guessed_rate or 0),
            duration_seconds=duration,
            num_frames_from_header=stream.frames,
            time_base=Fraction(stream.time_base),
            has_audio=bool(container.streams.audio),
        )


def keyframe_seconds(path: str | Path) -> list[float]:
    """Where decoding can begin, as the container's index says: in order, from the first time stamp, in decoding time,
    which may lie a few frames before the time of display. Empty where there is no index at the head of the file."""
    with opened(path) as (_, stream):
        time_base, origin = Fraction(stream.time_base), stream.start_time or 0
        return sorted(float((e.timestamp - origin) * time_base) for e in stream.index_entries if e.is_keyframe)


def read_frames(
    path: str | Path,
    *,
    start_seconds: float = 0.0,
    stop_seconds: float | None = None,
    short_side: int | None = None,
    with_native: bool = False,
    max_pixels: int = 0,
    on_damage: OnDamage | None = None,
) -> Iterator[Frame]:
    """Decode frames in display order, one thread, from `start_seconds` (inclusive) to `stop_seconds` (exclusive).

    Seconds count from the stream's first time stamp. With `short_side`, pictures are scaled so that their shorter side
    has that many pixels; with `with_native`, frames carry the decoder's picture too: look at it, then let it go.
    Time stamps rise strictly: frames that break this, or have none, are left out. Raises MediaError at the first packet
    that cannot be decoded; frames before it were yielded. With `on_damage` that is called instead, and frames go on
    with the next keyframe.
    """
    found = _pictures(path, start_seconds, max_pixels=max_pixels, on_damage=on_damage)
    for picture, coded_bytes, stream, seconds in _between(found, start_seconds, stop_seconds):
        image = _to_rgb(picture, short_side, size=display_size(stream, picture))
        native = picture if with_native else None
        yield Frame(pts=picture.pts, seconds=seconds, image=image, coded_bytes=coded_bytes, native=native)


def read_small(
    path: str | Path,
    *,
    short_side: int,
    start_seconds: float = 0.0,
    stop_seconds: float | None = None,
    max_pixels: int = 0,
    on_damage: OnDamage | None = None,
) -> Iterator[SmallFrame]:
    """As `read_frames`, for measuring: planes of a shorter side of at most `short_side`, a third of the cost of RGB.

    Frames carry the decoder's picture too: look at it, then let it go.
    """
    found = _pictures(path, start_seconds, max_pixels=max_pixels, on_damage=on_damage)
    for picture, coded_bytes, stream, seconds in _between(found, start_seconds, stop_seconds):
        height, width = _scaled_size(display_size(stream, picture), short_side)
        planes = small_planes(picture, height=height, width=width)
        yield SmallFrame(picture.pts, seconds, planes, coded_bytes, picture)


def _between(
    found: Iterator[tuple[Any, int, Any]], start_seconds: float, stop_seconds: float | None
) -> Iterator[tuple[Any, int, Any, float]]:
    """Those pictures that are shown in this time, and when."""
    for picture, coded_bytes, stream in found:
        seconds = float((picture.pts - (stream.start_time or 0)) * Fraction(stream.time_base))
        if stop_seconds is not None and seconds >= stop_seconds:
            return
        if seconds >= start_seconds - 1e-6:
            yield picture, coded_bytes, stream, seconds


def _pictures(
    path: str | Path, start_seconds: float, *, max_pixels: int = 0, on_damage: OnDamage | None
) -> Iterator[tuple[Any, int, Any]]:
    """Decoded pictures, their coded bytes and the stream, from a keyframe at or before `start_seconds` on."""
    for from_top in (False, True):
        with opened(path, max_pixels=max_pixels) as (container, stream):
            if not from_top:
                _seek(container, stream, seconds=start_seconds)
            found = pictures(container, stream, path=path, on_damage=on_damage)
            first = next(found, None)
            if first is None:
                return
            seconds = float((first[0].pts - (stream.start_time or 0)) * Fraction(stream.time_base))
            if start_seconds > 0 and seconds > start_seconds + 1e-6 and not from_top:
                # Containers without an index (MPEG program streams) may land behind the wanted instant.
                continue
            for picture, coded_bytes in itertools.chain([first], found):
                yield picture, coded_bytes, stream
            return


def _seek(container: Any, stream: Any, *, seconds: float) -> None:
    """To the keyframe at or before `seconds`; where that fails, reading from the top finds the frames too."""
    if seconds > 0:
        with suppress(av.error.FFmpegError):
            target = (stream.start_time or 0) + int(seconds / Fraction(stream.time_base))
            container.seek(target, stream=stream, backward=True)


def native_luma(frame: Frame | SmallFrame) -> UInt8[np.ndarray, "h w"]:
    """The light of a frame read `with_native`, at the size it is coded in and not rotated: blocks lie on their grid."""
    assert frame.native is not None, "the frame was read without with_native"
    first = frame.native.format.components[0]
    if first.is_luma and first.bits == 8 and frame.native.format.is_planar:
        plane = frame.native.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        return rows[: frame.native.height, : frame.native.width]
    grey = colour.reformat(frame.native, form="gray", height=frame.native.height, width=frame.native.width)
    luma: UInt8[np.ndarray, "h w"] = grey.to_ndarray()
    return luma


def native_rgb(frame: Frame, *, long_side: int) -> UInt8[np.ndarray, "h w c"]:
    """A frame read `with_native`, upright, as RGB with a longer side of at most `long_side` pixels."""
    assert frame.native is not None, "the frame was read without with_native"
    size = frame.native.height, frame.native.width
    short_side = max(2, round(min(size) * min(1.0, long_side / max(size))))
    return _to_rgb(frame.native, short_side, size=size)


def sample_clip(
    path: str | Path,
    *,
    start_seconds: float,
    num_frames: int,
    fps: float,
    height: int,
    width: int,
    max_pixels: int = 0,
) -> Frames:
    """`num_frames` pictures at exact instants `start + i/fps`, each the latest frame shown at that instant.

    Returned as uint8 `[t, h, w, 3]`, scaled to cover `height` x `width` and cropped at the centre. Integer time stamps
    decide (`groundwork.instants`), so the rate is right for every source, also for a variable one. The source's last
    frame is shown for as long as the one before it, and no longer: no clip ends frozen. Raises MediaError when the
    source ends, or is damaged, before the clip is read; damage elsewhere does not matter. With `max_pixels` larger
    pictures are damage.
    """
    picked: list[UInt8[np.ndarray, "h w c"]] = []
    instants: Instants | None = None
    last, step, shown = None, 0, 0
    damage: list[MediaError] = []

    def fill(until: int, picture: Any, stream: Any) -> None:
        """Take the picture for all instants up to that number."""
        count = min(until, num_frames) - len(picked)
        if count > 0:
            picked.extend([_covering(picture, stream, height=height, width=width)] * count)

    for picture, _, stream in _pictures(path, start_seconds, max_pixels=max_pixels, on_damage=damage.append):
        if instants is None:
            origin, unit = stream.start_time or 0, Fraction(stream.time_base)
            instants = Instants(origin + round(Fraction(start_seconds) / unit), unit, exact_rate(fps))
        shown = instants.before(picture.pts)
        if damage and shown > 0:
            break  # what comes now lies behind a damaged place inside the clip
        damage.clear()
        fill(shown, last or picture, stream)
        if len(picked) == num_frames:
            break
        step, last = picture.pts - last.pts if last is not None else 0, picture
    else:
        if instants is not None and last is not None:
            fill(instants.before(last.pts + (step or max(1, round(_ALONE_SECONDS / instants.time_base)))), last, stream)
    if len(picked) < num_frames:
        wanted = f"{num_frames} frames at {fps:g} fps from {start_seconds:.3f} s"
        why = damage[0].message if damage else f"{path}: ends"
        raise MediaError(f"{why} before {wanted} are read (found {len(picked)}).")
    return np.stack(picked)


def _covering(picture: Any, stream: Any, *, height: int, width: int) -> UInt8[np.ndarray, "h w c"]:
    """A decoded picture as `sample_clip` gives it."""
    image = _to_rgb(picture, None, size=display_size(stream, picture))
    return cover(image, height=height, width=width)


def cover(image: UInt8[np.ndarray, "h w c"], *, height: int, width: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Scale so that the picture covers `height` x `width`, aspect ratio kept, then crop at the centre."""
    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    size = (max(width, round(columns * scale)), max(height, round(rows * scale)))
    if size != (columns, rows):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    return image[top : top + height, left : left + width]


def write_video(path: str | Path, frames: Iterable[Frames] | Frames, *, fps: float, crf: int = 18) -> None:
    """Write an H.264 mp4 (yuv420p, index at the front) from one array or a stream of chunks, each uint8 `[t, h, w, 3]`.

    Tagged with the colours it is written in (BT.601's matrix for small pictures, BT.709's for large ones), so that
    players that heed tags and those that guess agree. One encoder thread, so equal frames give equal bytes. Raises
    ValueError for odd sizes or no frames.
    """
    chunks = iter([frames]) if isinstance(frames, np.ndarray) else iter(frames)
    first = next(chunks, None)
    if first is None or len(first) == 0:
        raise ValueError("frames must hold at least one picture")
    height, width = first.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"height and width must be even for yuv420p, got {height}x{width}")
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            colour.tag(stream.codec_context, height=height, width=width)
            # x264's macroblock tree reads memory it never wrote on CPUs with AVX-512: equal frames gave unequal bytes.
            stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
            for chunk in _chain(first, chunks):
                for image in chunk:
                    container.mux(stream.encode(colour.from_rgb(image)))
            container.mux(stream.encode())
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot write the video: {error}") from error


def _chain(first: Frames, rest: Iterator[Frames]) -> Iterator[Frames]:
    yield first
    yield from rest


def _duration_seconds(container: Any, stream: Any) -> float:
    if stream.duration:
        return float(Fraction(stream.duration) * Fraction(stream.time_base))
    return float(container.duration or 0) / float(av.time_base)


def _rotation(container: Any, stream: Any, path: str | Path) -> int:
    """Display rotation lives in side data that PyAV shows on frames only, so the first one is decoded."""
    damage: list[MediaError] = []
    for picture, _ in pictures(container, stream, path=path, on_damage=damage.append):
        return int(picture.rotation) % 360
    if damage:
        raise damage[0]
    raise MediaError(f"{path}: holds no frame with a time stamp that can be decoded.")


def _to_rgb(picture: Any, short_side: int | None, *, size: tuple[int, int]) -> UInt8[np.ndarray, "h w c"]:
    """Upright RGB of a picture whose `size` is (rows, columns) with square pixels."""
    height, width = _scaled_size(size, short_side)
    quality = colour.FAST if short_side is not None else colour.EXACT
    image = colour.to_rgb(picture, height=height, width=width, quality=quality)
    turns = (int(picture.rotation) // 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _scaled_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(rows, columns), never larger than they are."""
    scale = 1.0 if short_side is None else min(1.0, short_side / min(size))
    return (max(2, round(size[0] * scale)), max(2, round(size[1] * scale))) if scale < 1 else size


def stack_frames(frames: Sequence[Frame]) -> Frames:
    """Frames of one size as uint8 `[t, h, w, 3]`."""
    return np.stack([frame.image for frame in frames])
