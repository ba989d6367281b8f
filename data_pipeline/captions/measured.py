"""Measurements of a clip become sentences that say nothing else: colours, light, motion, camera, focus, length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data_pipeline.signals.palette import COLOURS
from groundwork.records import Caption

MODEL, VERSION = "measured", "1"
MAX_WORDS = 32
"""A caption fits the toy's 32 text tokens."""

_NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_COLOUR_AMOUNTS = ((0.55, "mostly"), (0.30, "much"), (0.15, "some"), (0.06, "a little"))
# (upper end of the score, words); the last one is open.
_LIGHT = ((40.0, "very dark"), (75.0, "dark"), (110.0, "dim"), (150.0, "bright"), (float("inf"), "very bright"))
_MOTION = (
    (1.5, "Almost no motion"),
    (5.0, "Slow motion"),
    (15.0, "Gentle motion"),
    (50.0, "Lively motion"),
    (float("inf"), "Fast motion"),
)
_FOCUS = ((40.0, "soft"), (250.0, "clear"), (float("inf"), "crisp"))
_LIGHT_DIFFERENCE = 12.0
_CAMERA_SPEED = 1.2  # per cent of the short side per second
_CAMERA_SHARE = 0.35  # of all motion, before it counts as the camera's


def caption(clip_id: str, scores: Mapping[str, float]) -> Caption:
    """The caption of a clip from its scores (see the signals) and its length `seconds`."""
    colours = colour_words(scores)
    motion = step(scores["motion_score"], _MOTION)
    text = (
        f"A {length_words(scores['seconds'])} second shot with {colours}. "
        f"The picture is {light_words(scores)}. {motion}, {camera_words(scores)}. "
        f"The focus is {step(scores['sharpness_score'], _FOCUS)}."
    )
    assert len(text.split()) <= MAX_WORDS, f"caption of {len(text.split())} words: {text}"
    return Caption(clip_id, text, f"{colours}, {motion.lower()}", [], model=MODEL, version=VERSION)


def step(value: float, steps: Sequence[tuple[float, str]]) -> str:
    """The words of the first step whose upper end lies above the value."""
    return next(words for end, words in steps if value < end)


def colour_words(scores: Mapping[str, float]) -> str:
    """The one to three colours that fill most of the picture: "much green, some brown and a little white"."""
    shares = sorted(((scores[f"colour_{name}"], name) for name in COLOURS), key=lambda pair: (-pair[0], pair[1]))
    least = _COLOUR_AMOUNTS[-1][0]
    named = [(share, name) for share, name in shares[:3] if share >= least] or shares[:1]
    words = [f"{_amount(share)} {name}" for share, name in named]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _amount(share: float) -> str:
    return next((words for least, words in _COLOUR_AMOUNTS if share >= least), "a little")


def light_words(scores: Mapping[str, float]) -> str:
    """How light it is, and on which side more so."""
    upper, left = scores["upper_light"], scores["left_light"]
    words = step(scores["luma_mean"], _LIGHT)
    if max(abs(upper), abs(left)) < _LIGHT_DIFFERENCE:
        return words
    if abs(upper) >= abs(left):
        return f"{words}, lighter {'above' if upper > 0 else 'below'}"
    return f"{words}, lighter {'left' if left > 0 else 'right'}"


def camera_words(scores: Mapping[str, float]) -> str:
    """Where the camera goes: against the movement of the picture, where that is one movement of the whole."""
    pan, tilt, zoom = scores["pan_score"], scores["tilt_score"], scores["zoom_score"]
    # A zoom of z per cent moves the picture's edge by about z / 2 per cent of its side.
    strongest = max(("pan", abs(pan)), ("tilt", abs(tilt)), ("zoom", abs(zoom) / 2), key=lambda pair: pair[1])
    if strongest[1] < max(_CAMERA_SPEED, _CAMERA_SHARE * scores["motion_score"]):
        return "steady camera"
    if strongest[0] == "pan":
        return f"camera panning {'left' if pan > 0 else 'right'}"
    if strongest[0] == "tilt":
        return f"camera tilting {'up' if tilt > 0 else 'down'}"
    return f"camera moving {'in' if zoom > 0 else 'out'}"


def length_words(seconds: float) -> str:
    """Whole seconds in words up to twelve, in figures beyond."""
    whole = max(1, round(seconds))
    return _NUMBERS[whole] if whole < len(_NUMBERS) else str(whole)
