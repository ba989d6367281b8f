"""API keys let in whom they should; forms become what JSON would have been."""

from __future__ import annotations

import pytest

from serving.errors import RequestError
from serving.forms import unflatten
from serving.keys import ApiKey, Gate, new_key
from serving.scheduling import Limits


def test_without_keys_everyone_is_let_in_and_sees_all() -> None:
    client = Gate(()).admit(None)
    assert (client.name, client.owner) == ("", None)


def test_a_key_is_known_by_its_hash_and_brings_its_own_limits() -> None:
    secret, digest = new_key()
    gate = Gate([ApiKey(name="ann", sha256=digest, weight=2.0, queued_jobs=3)])
    client = gate.admit(f"Bearer {secret}")
    assert (client.name, client.weight, client.owner) == ("ann", 2.0, "ann")
    limits = client.limits(Limits(max_queued_jobs=7))
    assert (limits.max_queued_jobs, limits.owner_queued_jobs) == (7, 3)
    for header in (None, "", "Bearer", f"Basic {secret}", f"Bearer {secret}x", f"Bearer {digest}"):
        with pytest.raises(RequestError) as refused:
            gate.admit(header)
        assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")


def test_too_many_requests_a_minute_are_told_when_to_come_back() -> None:
    now = [0.0]
    secret, digest = new_key()
    gate = Gate([ApiKey(name="ann", sha256=digest, requests_per_minute=2)], clock=lambda: now[0])
    for _ in range(2):
        gate.admit(f"Bearer {secret}")
    with pytest.raises(RequestError) as refused:
        gate.admit(f"Bearer {secret}")
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert 29_000 < int(refused.value.headers["retry-after-ms"]) <= 30_001
    now[0] = 31.0
    gate.admit(f"Bearer {secret}")


def test_form_fields_nest_as_the_official_client_writes_them() -> None:
    fields = [
        ("prompt", "a bunny"),
        ("seed", ""),
        ("loras[][name]", "orbit"),
        ("loras[][scale]", "0.5"),
        ("loras[][name]", "snow"),
        ("input_reference[image_url]", "http://a/b.png"),
        ("webhook[events][]", "video.completed"),
        ("webhook[url]", "http://c"),
    ]
    assert unflatten(fields) == {
        "prompt": "a bunny",
        "loras": [{"name": "orbit", "scale": "0.5"}, {"name": "snow"}],
        "input_reference": {"image_url": "http://a/b.png"},
        "webhook": {"events": ["video.completed"], "url": "http://c"},
    }


@pytest.mark.parametrize("name", ["a[b][c][d]", "[", "a[b", "a]", "x" * 3 + "[][][]"])
def test_malformed_names_of_fields_are_refused(name: str) -> None:
    with pytest.raises(RequestError) as refused:
        unflatten([(name, "1")])
    assert refused.value.status == 400


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a[b]"), ("a[b]", "a"), ("a[]", "a[b]"), ("a[b]", "a[]")])
def test_fields_that_contradict_each_other_are_refused(names: tuple[str, str]) -> None:
    with pytest.raises(RequestError):
        unflatten([(name, "1") for name in names])
