"""Requests become settings with nothing left open, or an error that names the field."""

from __future__ import annotations

import pytest

from cogvideox.variants import COGVIDEOX_1_5_5B, TOY
from serving.card import ModelCard
from serving.errors import RequestError
from serving.protocol import CreateVideo
from serving.requests import settle

CARD = ModelCard.of(TOY, sizes=(), steps=None, max_steps=200)
LARGE = ModelCard.of(COGVIDEOX_1_5_5B, sizes=("1360x768", "720x480"), steps=None, max_steps=200)


def test_what_is_not_asked_for_comes_from_the_card() -> None:
    settings = settle(CreateVideo(prompt="a bunny"), CARD)
    assert (settings.width, settings.height, settings.num_frames, settings.fps) == (144, 96, 17, 8)
    assert (settings.steps, settings.guidance_scale, settings.seconds) == (TOY.num_steps, TOY.guidance_scale, "2")


def test_a_seed_is_drawn_when_none_is_given_and_kept_when_one_is() -> None:
    drawn = {settle(CreateVideo(prompt="a bunny"), CARD).seed for _ in range(5)}
    assert len(drawn) == 5
    assert settle(CreateVideo(prompt="a bunny", seed=0), CARD).seed == 0


@pytest.mark.parametrize(
    ("card", "seconds", "frames"),
    [(CARD, "1", 9), (CARD, "2", 17), (CARD, "0.5", 9), (LARGE, "10", 161), (LARGE, "5", 81)],
)
def test_seconds_become_the_shortest_length_on_offer_that_lasts_so_long(
    card: ModelCard, seconds: str, frames: int
) -> None:
    assert settle(CreateVideo(prompt="p", seconds=seconds), card).num_frames == frames


def test_seconds_may_come_as_a_number() -> None:
    assert settle(CreateVideo.model_validate({"prompt": "p", "seconds": 2}), CARD).seconds == "2"


def test_another_rate_changes_what_seconds_mean() -> None:
    assert settle(CreateVideo(prompt="p", seconds="1", fps=16), CARD).num_frames == 17


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "sora-2"}, 404, "model_not_found", "model"),
        ({"size": "1280x720"}, 400, "invalid_size", "size"),
        ({"size": "huge"}, 400, "invalid_size", "size"),
        ({"size": "-144x96"}, 400, "invalid_size", "size"),
        ({"num_frames": 10}, 400, "invalid_frames", "num_frames"),
        ({"num_frames": 25}, 400, "invalid_frames", "num_frames"),
        ({"num_frames": 0}, 400, "invalid_frames", "num_frames"),
        ({"num_frames": -7}, 400, "invalid_frames", "num_frames"),
        ({"seconds": "12"}, 400, "invalid_seconds", "seconds"),
        ({"seconds": "soon"}, 400, "invalid_seconds", "seconds"),
        ({"seconds": "-1"}, 400, "invalid_seconds", "seconds"),
        ({"seconds": "nan"}, 400, "invalid_seconds", "seconds"),
        ({"seconds": "inf"}, 400, "invalid_seconds", "seconds"),
        ({"seconds": "1", "num_frames": 17}, 400, "invalid_seconds", "seconds"),
        ({"num_inference_steps": 201}, 400, "invalid_steps", "num_inference_steps"),
    ],
)
def test_what_cannot_be_done_is_refused_with_code_and_field(
    fields: dict[str, object], status: int, code: str, param: str
) -> None:
    with pytest.raises(RequestError) as refused:
        settle(CreateVideo.model_validate({"prompt": "a bunny", **fields}), CARD)
    assert (refused.value.status, refused.value.code, refused.value.param) == (status, code, param)


def test_an_offered_size_must_be_possible() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        ModelCard.of(TOY, sizes=("150x96",), steps=None, max_steps=200)
