"""A second plan: films that dissolve, and films that only look as if they did, in two halves of different footage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from random import Random

from groundwork.errors import InputError

from .footage import MAX_FRAMES
from .graded import CLEAN, CUT, DISSOLVE, FADE_BLACK, FADE_WHITE, Graded, Segment, Take
from .plan import RECORDINGS

Shots = tuple[tuple[int, int], ...]
TUNING: dict[str, Shots] = {
    "bikes.mp4": ((138, 184), (188, 239)),
    "coffee_pour_720p.mp4": ((0, 80), (180, 260)),
    "football_juggle_720p.mp4": ((0, 80), (120, 200)),
    "sign_language_640x480.mkv": ((0, 80),),
    "french_gp_1906_theora.ogv": ((0, 75), (90, 170), (190, 270)),
    "cube_60fps_square_300x300.mp4": ((0, 80),),
    "kitten_grass_720x480_8fps.mp4": ((0, 49),),
}
"""Single shots of the footage that thresholds may be tried on …"""
JUDGING: dict[str, Shots] = {
    "bigbuckbunny.mp4": ((0, 80),),
    "bbb_480p_30s.mp4": ((50, 130), (180, 260), (290, 370), (390, 470)),
    "cityCC0.mpg": ((0, 80), (117, 190)),
    "cup_rotating_480p.mp4": ((20, 100), (120, 200)),
    "dog_fetch_720p.mp4": ((0, 80), (140, 220)),
    "bottles_static_360p.mp4": ((0, 80), (400, 480)),
    "nasa_telescope_320x180.mp4": ((0, 80), (205, 285)),
    "dog_phone_1080p_vfr.mp4": ((0, 41),),
    "fire_juggling_rotated180_vfr.mp4": ((0, 25),),
    "muybridge_horse_720x480_8fps.mp4": ((0, 49),),
}
"""… and of the footage that they are judged on."""
HALVES = {"tuning": TUNING, "judging": JUDGING}
LOOKALIKES = ("fast_pan", "wall", "zoom", "light", "ripple", "crowd")
"""What may be mistaken for a dissolve: the camera turns, turns past a wall, or zooms, the light changes, water, many
that move."""
FEWEST, MOST = 6, 30  # frames of a dissolve
_DISSOLVED, _LENGTHS = 0.6, (1.4, 3.0)


def plan_transitions(shots: Mapping[str, Shots], *, files: int, seed: int) -> list[Graded]:
    """Of three films two have four shots, dissolved, cut or faded into each other; the third is one shot that looks
    like a dissolve now and then, or nothing but a shot."""
    rng = Random(seed)
    supply = takes(shots, rng)
    made = []
    for number in range(files):
        recording = replace(RECORDINGS[number % len(RECORDINGS)], variable_rate=False)
        if number % 3 == 2:
            label = (*LOOKALIKES, CLEAN)[number // 3 % (len(LOOKALIKES) + 1)]
            strength = rng.choice([0.5, 1.0, 2.0])
            segment = Segment(next(supply), 4 * recording.fps, label=label, strength=strength)
            made.append(Graded(f"{label}_{number:03d}", (segment,), recording, kind=label))
        else:
            segments = tuple(_segment(next(supply), recording.fps, rng) for _ in range(4))
            made.append(Graded(f"dissolves_{number:03d}", segments, recording, kind="dissolves"))
    return made


def _segment(take: Take, fps: int, rng: Random) -> Segment:
    kind = rng.random()
    into = DISSOLVE if kind < _DISSOLVED else CUT if kind < 0.85 else rng.choice((FADE_BLACK, FADE_WHITE))
    length = 0 if into == CUT else 2 * round(rng.uniform(FEWEST, MOST) / 2)
    return Segment(take, round(rng.uniform(*_LENGTHS) * fps), into=into, transition=length)


def takes(shots: Mapping[str, Shots], rng: Random) -> Iterator[Take]:
    """Shots in every turn and window, never two of one film in a row."""
    every = [
        Take(film, first, min(stop, first + MAX_FRAMES), turn, window)
        for film, spans in shots.items()
        for first, stop in spans
        for turn in range(4)
        for window in range(5)
    ]
    if len(shots) < 2:
        raise InputError("Films that dissolve need footage of two films at least.", "Name a folder of footage.")
    before = ""
    while True:
        rng.shuffle(every)
        for take in every:
            if take.film != before:
                before = take.film
                yield take
