"""A span's coded frames become a plan: which of them stand alone and are copied, which must be encoded again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from groundwork.container import opened
from groundwork.errors import MediaError
from groundwork.h264 import is_idr

_COPIED_CODECS = frozenset({"h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video"})


class CannotCopy(MediaError):  # noqa: N818
    """The span cannot be cut without encoding all of it; the message says why."""


@dataclass(frozen=True)
class Unit:
    """One coded frame, in decoding order; stamps in units of the stream's time base, from the start of the cut."""

    pts: int
    data: bytes
    key: bool


@dataclass(frozen=True)
class Plan:
    """The span's coded frames `units`, of which `units[first:stop]` can be copied."""

    units: Sequence[Unit]
    first: int
    stop: int
    wanted: frozenset[int]

    @property
    def copied(self) -> Sequence[Unit]:
        return self.units[self.first : self.stop]


def plan_copy(path: str | Path, stream: Any, start_pts: int, stop_pts: int) -> Plan:
    """What of [start_pts, stop_pts) can be copied out of a file's stream. Raises CannotCopy where nothing can."""
    codec = stream.codec_context.codec.canonical_name
    if codec not in _COPIED_CODECS:
        raise CannotCopy(f"packets of {codec} are not copied into mp4")
    units = [Unit(pts - start_pts, data, key) for pts, data, key in _packets(path, start_pts, stop_pts)]
    wanted = frozenset(unit.pts for unit in units if 0 <= unit.pts < stop_pts - start_pts)
    if not wanted:
        raise CannotCopy("no frame is in the span")
    if len(wanted) < sum(unit.pts in wanted for unit in units):
        raise CannotCopy("two frames have one time stamp")
    first = _first_copied(units, extradata=_h264_extradata(stream))
    stop = _stop_copied(units, first, stop_pts - start_pts)
    return Plan(units, first, stop, wanted)


def _packets(path: str | Path, start_pts: int, stop_pts: int) -> list[tuple[int, bytes, bool]]:
    """From the keyframe at or before the start to the last packet that is decoded before the span has been shown."""
    for from_top in (False, True):  # seeking may land behind the start
        with opened(path) as (container, stream):
            found: list[tuple[int, bytes, bool]] = []
            try:
                if not from_top:
                    container.seek(start_pts, stream=stream, backward=True)
                for packet in container.demux(stream):
                    if packet.size == 0 or not (found or packet.is_keyframe):
                        continue
                    if packet.pts is None:
                        raise CannotCopy("packets have no time stamps")
                    if packet.dts is not None and packet.dts >= stop_pts:
                        break
                    found.append((packet.pts, bytes(packet), packet.is_keyframe))
            except av.error.FFmpegError as error:
                raise MediaError(f"{path}: reading failed: {error}") from error
        if found and found[0][0] <= start_pts:
            return found
    raise CannotCopy("no keyframe lies at or before the start")


def _h264_extradata(stream: Any) -> bytes | None:
    """None for other codecs."""
    return (stream.codec_context.extradata or b"") if stream.codec_context.name == "h264" else None


def _first_copied(units: Sequence[Unit], *, extradata: bytes | None) -> int:
    """The first keyframe in the span behind which nothing earlier is shown."""
    lowest, entry = float("inf"), -1
    for number in range(len(units) - 1, -1, -1):
        unit = units[number]
        if unit.pts < 0:
            break
        if unit.key and unit.pts < lowest and (extradata is None or is_idr(unit.data, extradata)):
            entry = number
        lowest = min(lowest, unit.pts)
    if entry < 0:
        raise CannotCopy("no keyframe starts a closed group of pictures in the span")
    return entry


def _stop_copied(units: Sequence[Unit], first: int, stop: int) -> int:
    """Behind the last coded frame up to which all earlier shown frames are there, and none that is shown too late."""
    later = [float("inf")] * (len(units) + 1)
    for number in range(len(units) - 1, -1, -1):
        later[number] = min(later[number + 1], units[number].pts)
    highest, closed = -1, first
    for number in range(first, len(units)):
        highest = max(highest, units[number].pts)
        if highest >= stop:
            break
        if highest < later[number + 1]:
            closed = number + 1
    if closed == first:
        raise CannotCopy("no closed group of pictures ends in the span")
    return closed
