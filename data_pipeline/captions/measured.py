"""Measurements of a clip become sentences that say nothing else: colours, light, motion, camera, text, focus."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from data_pipeline.signals.palette import COLOURS
from groundwork.records import Caption

MODEL, VERSION = "measured", "2"
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
_TEXT = (("overlay_text_share", "Text lies over it."), ("scene_text_share", "Writing is in view."))
_TEXT_SHARE = 0.002  # of the picture
_LEAST_READ, _MOST_READ = 3, 3  # letters of a line, words of it
_LIGHT_DIFFERENCE = 12.0
_CAMERA_SPEED = 1.2  # per cent of the short side per second
_CAMERA_SHARE = 0.35  # of all motion, before it counts as the camera's


def caption(clip_id: str, scores: Mapping[str, float], *, read: Sequence[str] = ()) -> Caption:
    """The caption of a clip from its scores (see the signals), its length `seconds` and the lines `read` in it.

    Text takes the place of the focus: that read is quoted, else it is said where the text signal found some. Without a
    score of motion (NaN) the caption is that of an image.
    """
    colours = colour_words(scores)
    if math.isnan(scores["motion_score"]):
        known = text_words(scores, read) or focus_words(scores)
        text = f"A picture with {colours}. It is {light_words(scores)}. {known}"
        return Caption(clip_id, text, colours, [], model=MODEL, version=VERSION)
    motion = step(scores["motion_score"], _MOTION)
    text = (
        f"A {length_words(scores['seconds'])} second shot with {colours}. "
        f"The picture is {light_words(scores)}. {motion}, {camera_words(scores)}. "
        f"{text_words(scores, read) or focus_words(scores)}"
    )
    assert len(text.split()) <= MAX_WORDS, f"caption of {len(text.split())} words: {text}"
    return Caption(clip_id, text, f"{colours}, {motion.lower()}", [], model=MODEL, version=VERSION)


def focus_words(scores: Mapping[str, float]) -> str:
    """How sharp it is."""
    return f"The focus is {step(scores['sharpness_score'], _FOCUS)}."


def text_words(scores: Mapping[str, float], read: Sequence[str] = ()) -> str:
    """The longest line that was read, as far as three words; else whether text lies over the picture or is part of the
    scene, as the text signal measured. Empty for none, and where nobody looked."""
    lines = [line for line in (" ".join(re.findall(r"[\w'’&-]+", one)) for one in read) if len(line) >= _LEAST_READ]
    if lines:
        words = max(lines, key=len).split()[:_MOST_READ]
        return f"It reads “{' '.join(words)}”."
    found = [(scores.get(name), said) for name, said in _TEXT]
    shares = [(share, said) for share, said in found if share is not None and share >= _TEXT_SHARE]
    return max(shares)[1] if shares else ""


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
