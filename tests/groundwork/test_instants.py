"""Which frame is shown at each instant, read back from films whose frames carry their own number."""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import pairwise
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from groundwork import media
from groundwork.errors import MediaError
from groundwork.instants import Instants, exact_rate
from tests.support.films import NUMBERED_SIZE, number_of, numbered, write_film

RATES = {
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30_000, 1001),
    "30": Fraction(30),
    "60": Fraction(60),
}
HEIGHT, WIDTH = NUMBERED_SIZE
SLACK = Fraction(2, 1000)


def film(path: Path, times: list[Fraction]) -> Path:
    """Numbered frames shown from the given times on."""
    unit = Fraction(1, 90_000)
    return write_film(
        path,
        map(numbered, range(len(times))),
        stamps=[round(time / unit) for time in times],
        time_base=unit,
        options={"crf": "10", "preset": "ultrafast", "g": "40", "bf": "2"},
    )


def numbers(path: Path, *, start: Fraction | float, num_frames: int, fps: float) -> list[int]:
    frames = media.sample_clip(
        path, start_seconds=float(start), num_frames=num_frames, fps=fps, height=HEIGHT, width=WIDTH
    )
    return [number_of(frame) for frame in frames]


def shown(times: list[Fraction], *, start: Fraction, num_frames: int, rate: Fraction) -> list[int]:
    """By the definition: the last frame that began at or before the instant."""
    return [bisect_right(times, start + index / rate) - 1 for index in range(num_frames)]


@pytest.mark.parametrize("container", ["mp4", "mkv"])
@pytest.mark.parametrize("name", RATES)
def test_a_constant_rate_is_sampled_without_drift_up_to_the_last_frame(
    tmp_path: Path, name: str, container: str
) -> None:
    source = RATES[name]
    times = [index / source for index in range(int(source * 4) + 1)]
    path = film(tmp_path / f"a.{container}", times)
    for fps in (8.0, 16.0, float(source)):
        rate = source if fps == float(source) else exact_rate(fps)
        for first in (0, 7):
            start = times[first]
            # To the last instant at which the last frame is still on display.
            most = ceil((times[-1] + 1 / source - start) * rate)
            picked = numbers(path, start=start, num_frames=most, fps=fps)
            assert len(times) - 1 - picked[-1] < source / rate
            if container == "mp4":
                assert picked == shown(times, start=start, num_frames=most, rate=rate)
            for index, number in enumerate(picked):  # Matroska rounds start and frame to milliseconds
                instant = start + index / rate
                assert times[number] - SLACK <= instant < times[number] + 1 / source + SLACK
            with pytest.raises(MediaError, match="ends before"):
                numbers(path, start=start, num_frames=most + 1, fps=fps)


def test_a_variable_rate_is_sampled_by_its_own_time_stamps(tmp_path: Path) -> None:
    steps = np.random.default_rng(3).integers(900, 9000, 150)  # 10 to 100 ms
    times = [Fraction(int(stamp), 90_000) for stamp in np.concatenate([[0], np.cumsum(steps)])]
    path = film(tmp_path / "vfr.mp4", times)
    for fps in (8.0, 16.0, 23.976, 30.0):
        rate = exact_rate(fps)
        for first in (0, 20, 61):
            num_frames = int((times[-1] - times[first]) * rate) + 1
            expected = shown(times, start=times[first], num_frames=num_frames, rate=rate)
            assert numbers(path, start=times[first], num_frames=num_frames, fps=fps) == expected


def test_a_start_inside_a_frame_shown_for_long_shows_that_frame(tmp_path: Path) -> None:
    times = [Fraction(stamp) for stamp in (0, 1, 2, 7, 8)]
    path = film(tmp_path / "slow.mp4", times)
    assert numbers(path, start=5.5, num_frames=6, fps=2) == [2, 2, 2, 3, 3, 4]


def test_no_clip_ends_in_a_frozen_frame(tmp_path: Path) -> None:
    times = [Fraction(index, 30) for index in range(31)]
    path = film(tmp_path / "short.mp4", times)
    assert numbers(path, start=0, num_frames=9, fps=8) == [0, 3, 7, 11, 15, 18, 22, 26, 30]
    # The last frame goes at 1.033 s; the rate of the clip (8 a second) lends it no longer life.
    with pytest.raises(MediaError, match="found 9"):
        numbers(path, start=0, num_frames=10, fps=8)


def test_every_second_frame_of_rounded_time_stamps_is_every_second_frame() -> None:
    thirty = [round(Fraction(1000 * index, 30)) for index in range(400)]  # milliseconds, as Matroska counts
    for first in range(3):
        instants = Instants(thirty[first], Fraction(1, 1000), Fraction(15))
        ends = [instants.before(pts) for pts in thirty[first:]]
        picked = [index for index, (a, b) in enumerate(pairwise(ends)) for _ in range(b - a)]
        assert picked == list(range(0, len(picked) * 2, 2))


def test_a_frame_that_lasts_one_unit_is_not_jumped_over() -> None:
    instants = Instants(0, Fraction(1, 25), Fraction(25))  # AVI counts frames
    assert [instants.before(pts) for pts in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("given", "meant"),
    [(29.97, Fraction(30_000, 1001)), (23.976, Fraction(24_000, 1001)), (8.0, Fraction(8)), (12.5, Fraction(25, 2))],
)
def test_broadcast_rates_are_known_by_their_short_names(given: float, meant: Fraction) -> None:
    assert exact_rate(given) == meant
