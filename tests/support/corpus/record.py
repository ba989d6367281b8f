"""Frames become a file in a given codec and container: equal frames give equal bytes; damage is done afterwards."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .graded import Recording

_ENCODERS = {
    "libx264": {"preset": "superfast", "x264-params": "mbtree=0:scenecut=40"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "b": "0"},
    "mpeg4": {"flags": "+qscale"},
    "mpeg2video": {},
    "qtrle": {},
}
_TICKS = 90_000
_LAMBDA = 118  # FFmpeg's lambda units per step of a quantiser
_ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def record(path: Path, frames: Iterable[np.ndarray], recording: Recording) -> None:
    """Write the film. With a variable rate every third frame stays twice as long as the others."""
    options = {"fflags": "+bitexact"}
    with av.open(str(path), "w", format=recording.container, options=options) as container:
        stream = container.add_stream(recording.codec, rate=recording.fps, options=_options(recording))
        stream.width, stream.height, stream.pix_fmt = recording.width, recording.height, recording.pixel_format
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, recording.gop
        context.sample_aspect_ratio = Fraction(*recording.pixel_aspect)
        if recording.variable_rate:
            stream.time_base = context.time_base = Fraction(1, _TICKS)
        if recording.high_dynamic_range:
            context.color_primaries, context.color_trc, context.colorspace = 9, 16, 9  # BT.2020, PQ
        ticks = 0
        for index, image in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            if recording.variable_rate:
                picture.pts, picture.time_base = ticks, Fraction(1, _TICKS)
                ticks += _TICKS // recording.fps * (2 if index % 3 == 0 else 1)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    if recording.rotation:
        path.write_bytes(_rotated(path.read_bytes(), recording.rotation))


def record_audio(path: Path, *, seconds: float, hertz: float = 440.0) -> None:
    """An mp4 with a tone and no picture."""
    rate = 16_000
    wave = np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate).astype(np.float32) * 0.3
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        for first in range(0, len(wave), 1024):
            block = av.AudioFrame.from_ndarray(wave[None, first : first + 1024], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, first, Fraction(1, rate)
            container.mux(stream.encode(block))
        container.mux(stream.encode())


def damage(data: bytes, kind: str, *, name: str) -> bytes:
    """What is left of a file: truncated (the first half), corrupt (its media bytes overwritten here and there), empty,
    text (not a film at all; it holds `name`)."""
    if kind == "truncated":
        return data[: len(data) // 2]
    if kind == "corrupt":
        rng = np.random.default_rng(len(data))
        spoilt = np.frombuffer(data, np.uint8).copy()
        # The first and the last eighth hold headers and index: the file still opens.
        for start in rng.integers(len(data) // 8, len(data) * 7 // 8, 12):
            spoilt[start : start + 200] = rng.integers(0, 256, len(spoilt[start : start + 200]), dtype=np.uint8)
        return spoilt.tobytes()
    if kind == "empty":
        return b""
    if kind == "text":
        return f"This is letter {name} and not a film.\n".encode() * 400
    raise ValueError(f"kind must be truncated, corrupt, empty or text, got {kind!r}")


def _options(recording: Recording) -> dict[str, str]:
    options = dict(_ENCODERS[recording.codec])
    if recording.codec in ("mpeg4", "mpeg2video"):
        return options | {"flags": "+qscale", "global_quality": str(_LAMBDA * max(2, recording.quality // 5))}
    return options if recording.codec == "qtrle" else options | {"crf": str(recording.quality)}


def _rotated(data: bytes, degrees: int) -> bytes:
    """An mp4 whose track header asks players to turn the picture: PyAV cannot write that matrix."""
    place = data.index(b"tkhd") + 4
    matrix = place + (52 if data[place] == 1 else 40)  # version 1 has longer time fields
    a, b, c, d = _ROTATIONS[degrees]
    one = 1 << 16
    turned = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    return data[:matrix] + turned + data[matrix + 36 :]
