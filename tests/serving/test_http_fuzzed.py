"""Requests made up from the OpenAPI document: whatever comes in is answered in OpenAI's shape, never with a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings

from cogvideox.variants import TOY
from groundwork.storage import open_storage
from serving.app import create_app
from serving.card import ModelCard
from serving.desk import Desk, Rules
from serving.jobs.sql import SqlJobStore
from serving.scheduling import Limits
from tests.support.local_service import LocalJobs, LocalPrompts


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("fuzzed")
    store = SqlJobStore(folder / "jobs.sqlite")
    card = ModelCard.of(TOY, sizes=(), steps=None, max_steps=100)
    rules = Rules(limits=Limits(max_queued_jobs=10_000), webhooks=True)
    yield create_app(Desk(LocalJobs(store), LocalPrompts(), card=card, storage=open_storage(folder), rules=rules))
    store.close()


@pytest.fixture(scope="module")
def document(app: FastAPI) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_no_request_breaks_the_service(document: schemathesis.BaseSchema) -> None:
    tried = 0
    for found in document.get_all_operations():
        operation = found.ok()
        if operation.path.endswith(("/events", "/readyz")):
            continue  # one never ends by itself, the other may say that it is not ready

        @settings(max_examples=20, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            answer = case.call()
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                error = answer.json()["error"]
                assert set(error) == {"message", "type", "code", "param"}
                assert error["code"]

        check()
        tried += 1
    assert tried >= 13
