"""A chat endpoint over real HTTP, behind it a small vision-language model: answers, patience, limits, cost, secrets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from support import tiny_vlms
from support.chat_endpoint import Endpoint, chat_endpoint

from data_pipeline.captions import endpoint as endpoint_module
from data_pipeline.captions.asks import ANSWERED, FAILED, REFUSED, Answer, Ask, Model, Sampling
from data_pipeline.captions.endpoint import asked_wait
from data_pipeline.captions.models import load_model
from data_pipeline.captions.settings import EndpointSettings, ModelSettings

SHORT = Sampling(max_new_tokens=5)
SLOW_DOWN = (429, {"retry-after": "0.4"}, '{"error": {"message": "slow down"}}')
BROKEN = (500, {}, "oops")
NOT_JSON = (200, {}, "<html>a proxy's page</html>")
NO_CHOICES = (200, {}, '{"choices": []}')


def echo(ask: Ask, sampling: Sampling) -> Answer:
    return Answer(f"{len(ask.frames)} frames: {ask.prompt}", input_tokens=100, output_tokens=20)


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with chat_endpoint(echo) as endpoint:
        yield endpoint


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_FIRST_WAIT", 0.02)


def model_at(endpoint: Endpoint, **settings: Any) -> Model:
    return load_model(
        ModelSettings(model="tiny", backend="endpoint", endpoint=EndpointSettings(url=endpoint.url, **settings)),
        device="cpu",
    )


def asks(count: int, num_frames: int = 0) -> list[Ask]:
    frames = [np.full((32, 48, 3), 40 * number, np.uint8) for number in range(num_frames)]
    seconds = [float(number) for number in range(num_frames)]
    return [Ask(f"number {number}", "Be brief.", frames, seconds, number) for number in range(count)]


def test_a_small_model_behind_http_answers_what_it_answers_in_this_process(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = str(tiny_vlms.save_qwen2_5_vl(tmp_path_factory.mktemp("qwen")))
    local = load_model(ModelSettings(model=folder, shown_as="pictures"), device="cpu")
    with chat_endpoint(lambda ask, sampling: local.answer([ask], sampling)[0]) as endpoint:
        answers = model_at(endpoint, jpeg_quality=100).answer(asks(3, num_frames=2), SHORT)
        body = endpoint.requests[0]
    assert all(answer.status == ANSWERED and answer.text and answer.output_tokens for answer in answers)
    assert answers == [local.answer([ask], SHORT)[0] for ask in asks(3, num_frames=2)]
    kinds = [part["type"] for part in body["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("tiny", 0.0, 5)


@pytest.mark.parametrize("fault", [SLOW_DOWN, BROKEN, NOT_JSON, NO_CHOICES])
def test_what_passes_is_tried_again(served: Endpoint, fault: Any) -> None:
    served.faults = [fault]
    (answer,) = model_at(served).answer(asks(1), SHORT)
    assert (answer.text, answer.requests) == ("0 frames: number 0", 2)
    if fault is SLOW_DOWN:
        assert served.began[1] - served.began[0] >= 0.4


def test_an_answer_that_takes_too_long_is_asked_for_again_and_fails_at_last(served: Endpoint) -> None:
    served.seconds = 0.5
    (answer,) = model_at(served, timeout_seconds=0.1, tries=2).answer(asks(1), SHORT)
    assert (answer.status, answer.requests) == (FAILED, 2)
    assert "ReadTimeout" in answer.detail


def test_a_server_that_stays_broken_fails_the_clip_and_no_other(served: Endpoint) -> None:
    served.faults = [BROKEN] * 3
    first, second = (model_at(served, tries=3, concurrency=1).answer([ask], SHORT)[0] for ask in asks(2))
    assert (first.status, first.detail) == (FAILED, "after 3 tries: HTTP 500: oops")
    assert second.status == ANSWERED


def test_a_request_that_is_wrong_in_itself_is_not_repeated(served: Endpoint) -> None:
    served.faults = [(400, {}, "too many images")]
    (answer,) = model_at(served).answer(asks(1), SHORT)
    assert (answer.status, answer.requests, answer.detail) == (FAILED, 1, "HTTP 400: too many images")


def test_a_wrong_key_is_refused_at_once_and_the_key_is_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_endpoint(echo, key="right") as endpoint:
        monkeypatch.setenv("CAPTION_KEY", "wrong")
        model = model_at(endpoint, api_key_env="CAPTION_KEY", concurrency=1)
        answers = model.answer(asks(5), SHORT)
        assert [answer.status for answer in answers] == [REFUSED] * 5
        assert len(endpoint.requests) == 1
        assert "wrong" not in answers[0].detail.replace("wrong key", "")
        monkeypatch.setenv("CAPTION_KEY", "right")
        assert model_at(endpoint, api_key_env="CAPTION_KEY").answer(asks(1), SHORT)[0].status == ANSWERED


def test_requests_are_bounded_and_paced(served: Endpoint) -> None:
    served.seconds = 0.05
    assert len(model_at(served, concurrency=3).answer(asks(12), SHORT)) == 12
    assert 2 <= served.most_at_once <= 3
    served.began.clear()
    model_at(served, requests_per_minute=600).answer(asks(6), SHORT)
    gaps = np.diff(sorted(served.began))
    assert served.began[-1] - served.began[0] >= 0.45
    assert gaps.min() > 0.03


def test_tokens_and_cost_are_counted(served: Endpoint) -> None:
    model = model_at(served, price_per_million_input_tokens=2.5, price_per_million_output_tokens=10.0)
    (answer,) = model.answer(asks(1), SHORT)
    assert (answer.input_tokens, answer.output_tokens) == (100, 20)
    assert answer.cost == pytest.approx((100 * 2.5 + 20 * 10) / 1e6)


def test_retry_after_is_read_as_seconds_or_as_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert asked_wait("2.5") == 2.5
    assert asked_wait("Thu, 01 Jan 2026 00:00:30 GMT", now=now) == 30
    assert asked_wait("Wed, 31 Dec 2025 00:00:00 GMT", now=now) == 0
    assert asked_wait("99999") == 600
    assert asked_wait("soon") == asked_wait("") == 0
