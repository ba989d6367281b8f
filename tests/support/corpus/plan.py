"""A number of files and a seed become the list of graded films: a pure function, its labels need no building."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random

from .graded import CUT, DEFECTS, DISSOLVE, FADE_BLACK, FADE_WHITE, JUMP_CUT, Copy, Graded, Recording, Segment, Take

_H264 = Recording()
RECORDINGS = (
    _H264,
    replace(_H264, width=480, height=270, fps=24, gop=250),
    replace(_H264, codec="libx265", quality=26),
    replace(_H264, width=640, height=360, fps=30),
    replace(_H264, codec="libsvtav1", container="matroska", suffix=".mkv", quality=38),
    replace(_H264, width=320, height=240, gop=250),
    replace(_H264, codec="libvpx-vp9", container="webm", suffix=".webm", quality=36),
    replace(_H264, codec="mpeg4", container="avi", suffix=".avi", quality=20, gop=12),
    replace(_H264, variable_rate=True),
    replace(_H264, fps=50, width=384, height=216),
)
LARGE = (replace(_H264, width=1280, height=720), replace(_H264, width=1920, height=1080, fps=30, gop=250))
_COPIES = ("same_bytes", "reencoded", "scaled", "cropped", "shifted", "all")
_ODD = (
    *("empty", "truncated_mp4", "corrupt", "audio_only", "text_named_mp4", "one_frame", "odd_size", "rotated"),
    *("anamorphic", "ten_bit", "alpha", "truncated_mkv", "mkv_named_mp4", "hdr", "portrait", "corrupt_mpeg4"),
)
# Of each forty files: so many cut ones, faded ones, ones with a defect, copies with their original, odd ones.
_QUICK_SHARE, _QUICK_SIZE = 0.55, (320, 176)
_SHARES = (("cuts", 10), ("fades", 4), ("defect", 13), ("copies", 7), ("odd", 6))


class TakeSupply:
    """Hands out takes in a seeded order; starts over, at another frame, when all have been shown."""

    def __init__(self, takes: Sequence[Take], rng: Random) -> None:
        whole = [take for take in takes if take.window == 0]
        parts = [take for take in takes if take.window]
        rng.shuffle(whole)
        rng.shuffle(parts)
        self._takes, self._next = whole + parts, 0

    def other_view(self, before: Take) -> tuple[Take, int]:
        """The same shot in another window, a second on: what a jump cut leads to."""
        return replace(before, window=before.window % 4 + 1), 25

    def next(self, before: Take | None) -> tuple[Take, int]:
        """A take of another shot than `before`, and the frame to start at: two shots that follow each other differ."""
        while True:
            take = self._takes[self._next % len(self._takes)]
            offset = 37 * (self._next // len(self._takes))
            self._next += 1
            if before is None or (take.film, take.first) != (before.film, before.first):
                return take, offset


def plan(takes: Sequence[Take], *, files: int, seed: int, quick: bool = False) -> list[Graded]:
    """The corpus: kinds interleaved, so that few files hold a little of everything. `quick`: shorter and smaller."""
    rng = Random(seed)
    supply = TakeSupply(takes, rng)
    makers = {"cuts": _cuts, "fades": _fades, "defect": _defects, "copies": _copies, "odd": _odd}
    streams = {name: make(supply, rng) for name, make in makers.items()}
    planned: list[Graded] = []
    shares = dict(_SHARES)
    total = sum(shares.values())
    taken = dict.fromkeys(shares, 0)
    while len(planned) < files:
        # The kind that lags most behind its share comes next.
        name = max(shares, key=lambda kind: shares[kind] * (len(planned) + 1) / total - taken[kind])
        taken[name] += 1
        planned.append(next(streams[name]))
    return [_quick(film) for film in planned] if quick else planned


def _quick(film: Graded) -> Graded:
    """The same film for a test: half as long, and small; odd sizes stay."""
    segments = tuple(replace(segment, frames=max(1, round(segment.frames * _QUICK_SHARE))) for segment in film.segments)
    recording, copy = film.recording, film.copy
    if film.kind not in _ODD:
        smaller = 3 if copy is not None and copy.kind in ("scaled", "all") else 4
        recording = replace(recording, width=_QUICK_SIZE[0] * smaller // 4, height=_QUICK_SIZE[1] * smaller // 4)
    if copy is not None:
        copy = replace(copy, skip=round(copy.skip * _QUICK_SHARE))
    return replace(film, segments=segments, recording=recording, copy=copy)


def _segments(
    supply: TakeSupply,
    lengths: Sequence[float],
    recording: Recording,
    change: Callable[[int, Segment], Segment],
    *,
    jumps: bool = False,
) -> tuple[Segment, ...]:
    made: list[Segment] = []
    before = None
    for number, seconds in enumerate(lengths):
        before, offset = supply.other_view(before) if jumps and before is not None else supply.next(before)
        frames = max(2, round(seconds * recording.fps))
        # Offsets leave room before the first frame, for a transition into it.
        made.append(change(number, Segment(before, frames, offset)))
    return tuple(made)


def _cuts(supply: TakeSupply, rng: Random) -> Iterator[Graded]:
    number = 0
    while True:
        recording = RECORDINGS[number % len(RECORDINGS)]
        low, high, count = 0.9, 5.0, rng.randint(2, 5)
        if number % 9 == 8:
            recording, count, high = LARGE[(number // 9) % 2], 2, 2.5
        if number % 17 == 11:  # a minute
            count, low, high = 14, 2.5, 5.5
        lengths = [rng.uniform(low, high) for _ in range(count)]
        jumps = number % 6 == 3
        into = JUMP_CUT if jumps else CUT
        segments = _segments(
            supply, lengths, recording, lambda _, segment, into=into: replace(segment, into=into), jumps=jumps
        )
        name = f"jump_cuts_{number:03d}" if jumps else f"cuts_{number:03d}"
        yield Graded(name, segments, recording, kind="cuts")
        number += 1


def _fades(supply: TakeSupply, rng: Random) -> Iterator[Graded]:
    kinds = (FADE_BLACK, DISSOLVE, FADE_WHITE, FADE_BLACK)
    number = 0
    while True:
        recording = RECORDINGS[number % 4]
        lengths = [rng.uniform(2.2, 4.0) for _ in range(3)]
        into = [kinds[number % len(kinds)], CUT if number % 2 else kinds[(number + 2) % len(kinds)], CUT]
        spans = [2 * round(rng.uniform(0.3, 0.6) * recording.fps) for _ in range(3)]

        def change(index: int, segment: Segment, into: list[str] = into, spans: list[int] = spans) -> Segment:
            return replace(segment, into=into[index], transition=spans[index] if into[index] != CUT else 0)

        yield Graded(f"fades_{number:03d}", _segments(supply, lengths, recording, change), recording, kind="fades")
        number += 1


def _defects(supply: TakeSupply, rng: Random) -> Iterator[Graded]:
    """A clean shot, one with the defect, and a clean one again."""
    number = 0
    while True:
        label = DEFECTS[number % len(DEFECTS)]
        recording = RECORDINGS[(number + number // len(DEFECTS)) % len(RECORDINGS)]
        strength = rng.choice([0.8, 1.0, 1.2]) if label != "static" else rng.choice([0.0, 1.0, 2.0])
        lengths = [rng.uniform(2.2, 3.6) for _ in range(3)]

        def change(index: int, segment: Segment, label: str = label, strength: float = strength) -> Segment:
            return replace(segment, label=label, strength=strength) if index == 1 else segment

        segments = _segments(supply, lengths, recording, change)
        yield Graded(f"{label}_{number:03d}", segments, recording, kind=label)
        number += 1


def _copies(supply: TakeSupply, rng: Random) -> Iterator[Graded]:
    """An original of two shots and its six copies."""
    number = 0
    while True:
        recording = RECORDINGS[number % 4]
        lengths = [rng.uniform(3.0, 4.5) for _ in range(2)]
        original = Graded(
            f"original_{number:02d}",
            _segments(supply, lengths, recording, lambda _, segment: segment),
            recording,
            kind="original",
        )
        yield original
        for kind in _COPIES:
            yield _copy(original, kind)
        number += 1


def _copy(original: Graded, kind: str) -> Graded:
    recording, skip, crop = original.recording, 0, 0.0
    if kind in ("reencoded", "all"):
        recording = replace(recording, codec="libx265", quality=32, gop=60)
    if kind in ("scaled", "all"):
        recording = replace(recording, width=recording.width * 3 // 8 * 2, height=recording.height * 3 // 8 * 2)
    if kind in ("cropped", "all"):
        crop = 0.05
    if kind in ("shifted", "all"):
        skip = round(0.7 * recording.fps)
    expected = "duplicate" if kind == "same_bytes" else "ok"
    made = Copy(original.name, kind, skip=skip, crop=crop)
    return Graded(f"{original.name}_{kind}", original.segments, recording, kind="copy", expected=expected, copy=made)


def _odd(supply: TakeSupply, rng: Random) -> Iterator[Graded]:
    number = 0
    while True:
        yield _odd_file(_ODD[number % len(_ODD)], number, supply)
        number += 1


def _odd_file(kind: str, number: int, supply: TakeSupply) -> Graded:
    recordings = {
        "odd_size": replace(_H264, width=321, height=241, pixel_format="yuv444p"),
        "rotated": replace(_H264, rotation=(90, 180, 270)[number // len(_ODD) % 3]),
        "anamorphic": replace(_H264, width=360, height=288, pixel_aspect=(16, 11)),
        "ten_bit": replace(_H264, codec="libx265", pixel_format="yuv420p10le"),
        "hdr": replace(_H264, codec="libx265", pixel_format="yuv420p10le", high_dynamic_range=True),
        "alpha": replace(
            _H264, codec="qtrle", container="mov", suffix=".mov", pixel_format="argb", width=320, height=180
        ),
        "truncated_mkv": replace(_H264, container="matroska", suffix=".mkv"),
        "mkv_named_mp4": replace(_H264, container="matroska"),
        "portrait": replace(_H264, width=240, height=426),
        "corrupt_mpeg4": replace(_H264, codec="mpeg4", container="avi", suffix=".avi"),
    }
    damages = {"empty": "empty", "truncated_mp4": "truncated", "truncated_mkv": "truncated", "text_named_mp4": "text"}
    damages |= {"corrupt": "corrupt", "corrupt_mpeg4": "corrupt", "audio_only": "audio"}
    surely_failed = ("empty", "truncated_mp4", "text_named_mp4", "audio_only")
    recording = recordings.get(kind, _H264)
    lengths = [1 / recording.fps] if kind == "one_frame" else [2.4, 2.6]
    if kind == "alpha":
        lengths = [1.5]
    segments = _segments(supply, lengths, recording, lambda _, segment: segment)
    if kind == "one_frame":
        segments = (replace(segments[0], frames=1),)
    if kind in ("empty", "text_named_mp4", "audio_only"):
        segments = ()
    damage = damages.get(kind, "")
    expected = "failed" if kind in surely_failed else "either" if damage else "ok"
    return Graded(f"odd_{number:03d}_{kind}", segments, recording, kind=kind, damage=damage, expected=expected)
