"""Coded H.264 frames become their units: parameter sets, entry points, start codes in place of lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from groundwork.errors import MediaError

_IDR, _SPS, _PPS, _DELIMITER = 5, 7, 8, 9
_START = b"\0\0\0\1"
_HIGHEST_ID = 31


def annex_b(data: bytes, extradata: bytes) -> bytes:
    """A coded frame with a start code before each unit; `extradata` of its stream says how they are separated now."""
    if extradata[:1] != b"\1":
        return data
    return b"".join(_START + unit for unit in _prefixed(data, (extradata[4] & 3) + 1))


def is_idr(data: bytes, extradata: bytes) -> bool:
    """Whether a frame is one that clears the decoder's memory."""
    return any(unit[0] & 31 == _IDR for unit in _units(annex_b(data, extradata)))


def parameter_sets(frames: Iterable[bytes], extradata: bytes = b"") -> list[bytes]:
    """The sequence and picture parameter sets in frames with start codes and in the stream's extradata, each once."""
    outside = _configured(extradata) if extradata[:1] == b"\1" else _units(extradata)
    inside = (unit for frame in frames for unit in _units(frame))
    return list(dict.fromkeys(unit for unit in (*outside, *inside) if unit[0] & 31 in (_SPS, _PPS)))


def without_parameter_sets(data: bytes) -> bytes:
    """The frame (start codes) without what its file says once for all: parameter sets, delimiters."""
    kept = (unit for unit in _units(data) if unit[0] & 31 not in (_SPS, _PPS, _DELIMITER))
    return b"".join(_START + unit for unit in kept)


def unused_id(sets: Iterable[bytes]) -> int:
    """A number that no sequence or picture parameter set bears. Raises MediaError when there is none up to 31."""
    numbers = [_golomb(unit[4:8]) if unit[0] & 31 == _SPS else _golomb(unit[1:5]) for unit in sets]
    number = max(numbers, default=-1) + 1
    if number > _HIGHEST_ID:
        raise MediaError("The stream uses every number of parameter sets.")
    return number


def _units(data: bytes) -> Iterator[bytes]:
    """The units of a frame with start codes."""
    for part in data.split(b"\0\0\1"):
        unit = part.rstrip(b"\0")
        if unit:
            yield unit


def _prefixed(data: bytes, width: int) -> Iterator[bytes]:
    place = 0
    while place + width < len(data):
        size = int.from_bytes(data[place : place + width], "big")
        place += width
        if size and place + size <= len(data):
            yield data[place : place + size]
        place += max(size, 0)


def _configured(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an `avcC` box: a count and 16-bit lengths, first of sequences, then of pictures."""
    place = 5
    for mask in (31, 255):
        count, place = extradata[place] & mask, place + 1
        for _ in range(count):
            size = int.from_bytes(extradata[place : place + 2], "big")
            yield extradata[place + 2 : place + 2 + size]
            place += 2 + size


def _golomb(data: bytes) -> int:
    """The first unsigned Exp-Golomb number of the bits (H.264, 9.1)."""
    bits = f"{int.from_bytes(data, 'big'):0{8 * len(data)}b}"
    zeros = bits.index("1") if "1" in bits else 0
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
