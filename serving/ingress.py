"""The deployment that answers HTTP: stateless, any number of replicas, without torch."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from ray import serve
from ray.serve.handle import DeploymentHandle

from groundwork.storage import open_storage
from groundwork.telemetry import configure_logging
from serving.app import create_app
from serving.card import ModelCard
from serving.desk import Desk, Rules
from serving.jobs.deployment import JobsClient
from serving.keys import ApiKey, Gate
from serving.text import TextClient


@serve.deployment(name="Ingress", max_ongoing_requests=200, graceful_shutdown_wait_loop_s=0.2)
@serve.ingress()
class Ingress:
    """The application of `serving.app`, with the job store and the text encoder behind it."""

    def __init__(
        self,
        jobs: DeploymentHandle,
        text: DeploymentHandle,
        *_workers: DeploymentHandle,  # not called: they pull; being bound here makes them part of the application
        card: ModelCard,
        results_uri: str,
        keys: Sequence[ApiKey],
        rules: Rules,
    ) -> None:
        configure_logging()
        storage = open_storage(results_uri)
        self._desk = Desk(JobsClient(jobs), TextClient(text), card=card, storage=storage, rules=rules)
        self._gate = Gate(keys)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self._desk, self._gate)
