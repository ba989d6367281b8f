"""Measured captions: they fit the model's tokens, say the direction that was measured, and tell clips apart."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.analysis import analyse
from data_pipeline.assess import BUCKET, assess
from data_pipeline.captions.asks import Ask, Sampling
from data_pipeline.captions.measured import MAX_WORDS, camera_words, caption, colour_words, light_words
from data_pipeline.captions.models import load_model
from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.recipe import CurateRecipe
from data_pipeline.signals.palette import COLOURS
from groundwork.media import probe

STILL = {"pan_score": 0.0, "tilt_score": 0.0, "zoom_score": 0.0, "motion_score": 5.0}
GREY = {f"colour_{name}": 0.0 for name in COLOURS} | {"colour_grey": 1.0}
PLAIN = {**STILL, **GREY, "luma_mean": 100.0, "upper_light": 0.0, "left_light": 0.0, "sharpness_score": 300.0}


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ({"pan_score": 4.0}, "camera panning left"),
        ({"pan_score": -4.0}, "camera panning right"),
        ({"tilt_score": 4.0}, "camera tilting up"),
        ({"tilt_score": -4.0}, "camera tilting down"),
        ({"zoom_score": 9.0}, "camera moving in"),
        ({"zoom_score": -9.0}, "camera moving out"),
        ({"pan_score": 1.0}, "steady camera"),
        ({"pan_score": 4.0, "motion_score": 60.0}, "steady camera"),
    ],
)
def test_the_camera_goes_against_the_picture(moved: dict[str, float], words: str) -> None:
    assert camera_words({**STILL, **moved}) == words


def test_colours_are_named_from_the_most_to_the_least() -> None:
    assert colour_words({**GREY, "colour_grey": 0.2, "colour_green": 0.6, "colour_blue": 0.1, "colour_red": 0.05}) == (
        "mostly green, some grey and a little blue"
    )
    assert colour_words(GREY) == "mostly grey"


def test_light_says_where_it_comes_from_only_when_it_is_measured() -> None:
    assert light_words(PLAIN) == "dim"
    assert light_words({**PLAIN, "left_light": -30.0}) == "dim, lighter right"


def test_the_longest_caption_fits_the_text_tokens() -> None:
    three = {**PLAIN, "colour_grey": 0.1, "colour_green": 0.1, "colour_blue": 0.1, "upper_light": 50.0, "seconds": 2.1}
    made = caption("c", {**three, "pan_score": 9.0, "motion_score": 1.0})
    assert len(made.text.split()) <= MAX_WORDS
    assert made.model == "measured"
    assert made.text.startswith("A two second shot with a little blue, a little green and a little grey.")


def test_text_that_was_read_is_quoted_and_text_that_was_measured_is_told() -> None:
    scores = {**PLAIN, "seconds": 2.0}
    quoted = caption("c", scores, read=["a", "NO ENTRY: staff only, please"]).text
    assert quoted.endswith("It reads “NO ENTRY staff”.")
    overlay = caption("c", {**scores, "overlay_text_share": 0.05, "scene_text_share": 0.01}).text
    assert overlay.endswith("Text lies over it.")
    assert caption("c", {**scores, "scene_text_share": 0.01}).text.endswith("Writing is in view.")
    for absent in (float("nan"), 0.0):
        assert caption("c", {**scores, "overlay_text_share": absent, "scene_text_share": absent}).text.endswith(
            "The focus is crisp."
        )


def test_words_in_real_frames_are_read() -> None:
    pytest.importorskip("rapidocr_onnxruntime")
    frames = [np.full((240, 480, 3), 60, np.uint8) for _ in range(3)]
    for frame in frames:
        cv2.putText(frame, "HARBOUR LANE", (40, 130), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255, 255, 255), 4)
    cv2.putText(frames[0], "GLITCH", (40, 220), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255, 255, 255), 4)
    blank = [np.full((240, 480, 3), 60, np.uint8)] * 3
    reader = load_model(CaptionerSettings().reader, device="cpu")
    seconds = [0.0, 1.0, 2.0]
    found = reader.answer([Ask("", frames=frames, seconds=seconds), Ask("", frames=blank, seconds=seconds)], Sampling())
    assert [answer.text for answer in found] == ["HARBOUR LANE", ""]


def test_clips_of_real_films_get_captions_of_their_own(footage: Path, quick_recipe: CurateRecipe) -> None:
    films = [footage / name for name in ("city.mpg", "bunny.mp4")]
    table = pa.concat_tables(assess(film.name, analyse(film, header=probe(film)), quick_recipe) for film in films)
    texts = [caption(row["clip_id"], row).text for row in table.filter(table.column(BUCKET).is_valid()).to_pylist()]
    assert len(texts) == 5
    for text in texts:  # the paper's rules for captions
        assert len(text.split()) <= 100
        assert "video" not in text.lower()
        assert "\n" not in text
    assert len(set(texts)) == 5
    assert all("teal" in text or "blue" in text for text in texts[:3])
    assert all("green" in text for text in texts[3:])
