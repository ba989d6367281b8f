"""A span of a video becomes a file of its own: packets copied where they stand alone, only the rest encoded again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from groundwork import colour
from groundwork.container import opened, pictures
from groundwork.cut_plan import CannotCopy, Plan, Unit, plan_copy
from groundwork.errors import MediaError
from groundwork.h264 import annex_b, parameter_sets, unused_id, without_parameter_sets

_EDGE_QP = 14
"""Quantiser of re-encoded ends: above 40 dB whatever they show."""
_OPTIONS = {"movflags": "+faststart", "fflags": "+bitexact"}


@dataclass(frozen=True)
class Cut:
    """What `cut_copy` and `cut_encode` wrote. `copied_frames` of `num_frames` were taken as they are, from the frame
    with number `first_copied` on."""

    num_frames: int
    copied_frames: int
    first_copied: int


def cut_copy(path: str | Path, target: str | Path, *, start_pts: int, stop_pts: int) -> Cut:
    """Cut [start_pts, stop_pts) exactly: the coded frames of whole groups of pictures are copied bit for bit, frames
    before the first keyframe and behind the last closed place are encoded again, near losslessly. Only the pictures
    are kept, without sound; rotation, colours and pixel shape stay as they are.

    Raises CannotCopy where that is not possible: no keyframe inside, a codec whose ends we cannot encode to match,
    time stamps that are missing. Raises MediaError for damaged files.
    """
    with opened(path) as (_, stream):
        plan = plan_copy(path, stream, start_pts, stop_pts)
        copied_pts = {unit.pts for unit in plan.copied}
        missing = sorted(plan.wanted - copied_pts)
        if missing:
            _check_ends(stream)
        first = min(copied_pts)
        parts = list(plan.copied)
        extradata = None
        if missing:
            parts, extradata = _with_ends(path, stream, plan, start_pts)
        stop = stop_pts - start_pts
        _write(target, stream, parts, stop=stop, extradata=extradata)
        return Cut(len(plan.wanted), len(copied_pts), sum(pts < first for pts in plan.wanted))


def cut_encode(path: str | Path, target: str | Path, *, start_pts: int, stop_pts: int, crf: int) -> Cut:
    """Cut [start_pts, stop_pts) exactly by encoding every frame as H.264, at the source's size and time stamps.

    Raises MediaError when the span cannot be decoded.
    """
    found = _pictures(path, start_pts, stop_pts)
    first = next(found, None)
    if first is None:
        raise MediaError(f"{path}: holds no frame between its time stamps {start_pts} and {stop_pts}.")
    options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
    frames = 0
    with opened(path) as (_, source), av.open(str(target), "w", format="mp4", options=_OPTIONS) as container:
        stream = container.add_stream("libx264", rate=_rate(source), options=options)
        _configure(stream.codec_context, _upright(first), source)
        for picture, until in _with_ends_of_display(_chained(first, found), stop_pts):
            upright = _upright(picture)
            upright.pict_type, upright.time_base = 0, Fraction(source.time_base)
            upright.pts, upright.duration = picture.pts - start_pts, until - picture.pts
            container.mux(stream.encode(upright))
            frames += 1
        container.mux(stream.encode())
    return Cut(frames, 0, 0)


def _with_ends_of_display(pictures: Iterable[Any], stop_pts: int) -> Iterator[tuple[Any, int]]:
    """Each picture with the time stamp of the next; of the last one, the end."""
    before: Any = None
    for picture in pictures:
        if before is not None:
            yield before, picture.pts
        before = picture
    if before is not None:
        yield before, stop_pts


def differences(path: str | Path, cut: str | Path, *, start_pts: int, stop_pts: int) -> Iterator[float]:
    """The PSNR of each frame of a cut against its source, in dB; infinite for equal ones.

    Raises MediaError when the cut does not hold just the frames of the span, at their times.
    """
    with opened(cut) as (container, stream):
        base = Fraction(stream.time_base)
        own = _decode_all(container, stream, cut)
        with opened(path) as (_, source):
            source_base = Fraction(source.time_base)
        for theirs in _pictures(path, start_pts, stop_pts):
            ours = next(own, None)
            if ours is None or ours.pts * base != (theirs.pts - start_pts) * source_base:
                found = "none" if ours is None else f"one at {float(ours.pts * base):.4f} s"
                wanted = float((theirs.pts - start_pts) * source_base)
                raise MediaError(f"{cut}: a frame should lie at {wanted:.4f} s, found {found}.")
            as_cut = theirs if _form(ours) == _form(theirs) else _upright(theirs)
            if _form(ours) != _form(as_cut):
                raise MediaError(f"{cut}: pictures have another size or format than those of their source.")
            peak = 2 ** ours.format.components[0].bits - 1
            yield _psnr(_planes(ours), _planes(as_cut), peak=peak)
        if next(own, None) is not None:
            raise MediaError(f"{cut}: holds more frames than its source between {start_pts} and {stop_pts}.")


def _chained(first: Any, rest: Iterable[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _check_ends(stream: Any) -> None:
    context = stream.codec_context
    if context.name != "h264":
        raise CannotCopy(f"the cut lies between keyframes, and ends of {context.name} are not encoded to match")
    if context.pix_fmt not in _encodable():
        raise CannotCopy(f"the encoder has no pixel format {context.pix_fmt}")


def _with_ends(path: str | Path, stream: Any, plan: Plan, start_pts: int) -> tuple[list[Unit], bytes]:
    """All coded frames with start codes, and the parameter sets of copied and encoded ones together."""
    extradata = stream.codec_context.extradata or b""
    copied = [Unit(unit.pts, annex_b(unit.data, extradata), unit.key) for unit in plan.copied]
    own_sets = parameter_sets([unit.data for unit in copied if unit.key], extradata)
    number = unused_id(own_sets)
    first, last = min(unit.pts for unit in copied), max(unit.pts for unit in copied)
    head = [pts for pts in plan.wanted if pts < first]
    tail = [pts for pts in plan.wanted if pts > last]
    before, encoded_sets = _ends(path, stream, head, start_pts, number)
    after, tail_sets = _ends(path, stream, tail, start_pts, number)
    sets = dict.fromkeys([*own_sets, *encoded_sets, *tail_sets])
    units = [*before, *copied, *after]
    return (
        [Unit(unit.pts, without_parameter_sets(unit.data), unit.key) for unit in units],
        b"".join(b"\0\0\0\1" + item for item in sorted(sets, key=lambda item: item[0] & 31)),
    )


def _ends(
    path: str | Path, stream: Any, wanted: Sequence[int], start_pts: int, number: int
) -> tuple[list[Unit], list[bytes]]:
    """Frames of one end, encoded with the parameter set of that number."""
    if not wanted:
        return [], []
    units: list[Unit] = []
    encoder: Any = None
    for picture in _pictures(path, start_pts + min(wanted), start_pts + max(wanted) + 1):
        if picture.interlaced_frame:
            raise CannotCopy("interlaced frames are not encoded to match")
        if encoder is None:
            parameters = f"sps-id={number}:mbtree=0:bframes=0:keyint=infinite"
            encoder = _encoder(picture, stream, {"qp": str(_EDGE_QP), "preset": "veryfast", "x264-params": parameters})
        units += _encode(encoder, picture, picture.pts - start_pts)
    if encoder is not None:
        units += _encode(encoder, None, 0)
    if {unit.pts for unit in units} != set(wanted):
        raise CannotCopy("the frames at an end cannot be decoded one for one")
    return units, parameter_sets([units[0].data])


def _encoder(picture: Any, stream: Any, options: dict[str, str]) -> Any:
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.framerate, encoder.options = _rate(stream), options
    _configure(encoder, picture, stream)
    return encoder


def _encodable() -> frozenset[str]:
    """Pixel formats that the encoder takes."""
    return frozenset(form.name for form in av.Codec("libx264", "w").video_formats or ())


def _rate(stream: Any) -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def _configure(encoder: Any, picture: Any, stream: Any) -> None:
    """Pictures like this one, colours and time base of that stream; one thread: equal frames give equal bytes."""
    context = stream.codec_context
    encoder.width, encoder.height, encoder.pix_fmt = picture.width, picture.height, picture.format.name
    encoder.time_base = Fraction(stream.time_base)
    if context.sample_aspect_ratio:
        shape = Fraction(context.sample_aspect_ratio)
        turned = picture.width != context.width and picture.height != context.height
        encoder.sample_aspect_ratio = 1 / shape if turned else shape
    for name in ("color_range", "color_primaries", "color_trc", "colorspace"):
        setattr(encoder, name, getattr(picture, name))
    encoder.thread_count = 1


def _encode(encoder: Any, picture: Any, pts: int) -> list[Unit]:
    if picture is not None:
        picture.pict_type, picture.pts, picture.time_base = 0, pts, encoder.time_base
    try:
        return [Unit(packet.pts, bytes(packet), packet.is_keyframe) for packet in encoder.encode(picture)]
    except av.error.FFmpegError as error:
        raise MediaError(f"the frames cannot be encoded: {error}") from error


def _pictures(path: str | Path, start_pts: int, stop_pts: int) -> Iterator[Any]:
    """Decoded pictures of the span, read from the top where seeking lands behind its start."""
    for from_top in (False, True):
        with opened(path) as (container, stream):
            if not from_top:
                container.seek(start_pts, stream=stream, backward=True)
            found = pictures(container, stream, path=path, on_damage=None)
            first = next(found, None)
            if first is not None and (from_top or first[0].pts <= start_pts):
                for picture, _ in _chained(first, found):
                    if picture.pts >= stop_pts:
                        break
                    if picture.pts >= start_pts:
                        yield picture
                return


def _decode_all(container: Any, stream: Any, path: str | Path) -> Iterator[Any]:
    for picture, _ in pictures(container, stream, path=path, on_damage=None):
        yield picture


def _upright(picture: Any) -> Any:
    """The picture as shown, in a form the encoder takes: turned, of even size, or itself where nothing is to do."""
    turns = (int(picture.rotation) // 90) % 4
    if picture.format.name in _encodable() and not turns and picture.width % 2 == 0 and picture.height % 2 == 0:
        return picture
    image = colour.to_rgb(picture, height=picture.height, width=picture.width, quality=colour.EXACT)
    upright = np.rot90(image, turns)
    turned = colour.from_rgb(upright[: upright.shape[0] // 2 * 2, : upright.shape[1] // 2 * 2])
    turned.pts = picture.pts
    return turned


def _write(target: str | Path, template: Any, units: Sequence[Unit], *, stop: int, extradata: bytes | None) -> None:
    with av.open(str(target), "w", format="mp4", options=_OPTIONS) as container:
        stream = container.add_stream_from_template(template, opaque=True)
        if extradata is not None:
            stream.codec_context.extradata = extradata
        _mux(container, stream, units, stop=stop, time_base=Fraction(template.time_base))


def _mux(container: Any, stream: Any, units: Sequence[Unit], *, stop: int, time_base: Fraction) -> None:
    """Packets with new decoding times: in their order, each no later than its frame is shown."""
    shown = sorted(unit.pts for unit in units)
    delay = max(early - unit.pts for early, unit in zip(shown, units, strict=True))
    until = dict(zip(shown, [*shown[1:], stop], strict=True))
    for early, unit in zip(shown, units, strict=True):
        packet = av.Packet(unit.data)
        packet.stream, packet.time_base, packet.is_keyframe = stream, time_base, unit.key
        packet.pts, packet.dts, packet.duration = unit.pts, early - delay, until[unit.pts] - unit.pts
        container.mux_one(packet)


def _form(picture: Any) -> tuple[int, int, int, str]:
    return picture.width, picture.height, int(picture.rotation), picture.format.name


def _planes(picture: Any) -> np.ndarray:
    """All samples of a picture, in its own format."""
    wide = picture.format.components[0].bits > 8
    kind = np.dtype("<u2") if wide else np.dtype("u1")
    parts = []
    for plane in picture.planes:
        rows = np.frombuffer(plane, kind).reshape(plane.height, plane.line_size // kind.itemsize)
        parts.append(rows[:, : plane.width].ravel())
    return np.concatenate(parts)


def _psnr(ours: np.ndarray, theirs: np.ndarray, *, peak: int) -> float:
    if np.array_equal(ours, theirs):
        return float("inf")
    error = float(np.mean((ours.astype(np.float32) - theirs.astype(np.float32)) ** 2))
    return 10 * float(np.log10(peak**2 / error))
