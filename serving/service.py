"""Weights and a configuration become a running service: checked first, awaited until ready, drained at the end."""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpx

from groundwork.errors import RunError
from groundwork.ray_session import prepare_environment, ray_session
from groundwork.telemetry import Progress, get_logger
from serving.config import ServingConfig
from serving.graph import Places, ServiceArguments, absolute, build_app, offered_card

T = TypeVar("T")
APPLICATION = "cogvideox"
_START_SECONDS, _STOP_SECONDS = 300.0, 120.0
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
_logger = get_logger("serving")


def serve_config(config: ServingConfig, *, weights: str, host: str, port: int) -> dict[str, Any]:
    """The document that `serve deploy` takes."""
    arguments = ServiceArguments(weights=absolute(weights), config=config)
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": host, "port": port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": "serving.graph:build_app",
                "args": arguments.model_dump(mode="json"),
            }
        ],
    }


@contextmanager
def running(
    config: ServingConfig, *, weights: str, host: str = "127.0.0.1", port: int = 8000, address: str | None = None
) -> Iterator[str]:
    """A service for the length of the block; yields its base URL once it answers. Port 0 takes a free one.

    Weights, state folder and port are checked before anything starts. At the end every worker finishes its step,
    saves its state and gives its lease back; then Serve is shut down, and Ray too if it was started here.

    Raises WeightsError, RunError (port in use, Serve running there already, not ready in time), StorageError.
    """
    prepare_environment(address)
    weights = absolute(weights)
    offered_card(config, weights=weights)
    places = Places.of(config, weights=weights)
    port = check_port(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with ray_session(address):
        _refuse_if_serve_runs()
        try:
            jobs = _start(config, weights=weights, host=host, port=port)
            with Progress("starting the service", total=None, unit="s") as progress:
                _wait_until_ready(url, progress)
            _logger.info("serving at %s, jobs in %s", url, places.database)
            try:
                yield url
            finally:
                _drain(jobs, seconds=config.drain_seconds)
        finally:
            _stop()


def _refuse_if_serve_runs() -> None:
    """Raises RunError: a Serve that runs has its own address, and this one would be shut down at the end."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if serve.status().proxies:
        hint = "Deploy into it: 'serving build CONFIG --weights URI > service.yaml', then 'serve deploy service.yaml'."
        raise RunError("Ray Serve runs on this Ray already, with an address of its own.", hint)


def _start(config: ServingConfig, *, weights: str, host: str, port: int) -> Any:
    """Deploy without waiting; the handle of the job store."""
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port}, logging_config=_QUIET)
    application = build_app(ServiceArguments(weights=weights, config=config))
    serve.run_many(
        [serve.RunTarget(target=application, name=APPLICATION, route_prefix="/", logging_config=_QUIET)],
        wait_for_applications_running=False,
    )
    return serve.get_deployment_handle("Jobs", app_name=APPLICATION)


def _wait_until_ready(url: str, progress: Progress) -> None:
    """Until every deployment runs and the routes answer. Raises RunError with Serve's own words when one fails."""
    from ray import serve

    stop = time.monotonic() + _START_SECONDS
    while time.monotonic() < stop:
        application = serve.status().applications.get(APPLICATION)
        status = application.status if application is not None else "DEPLOYING"
        if status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise RunError(f"The service does not start: {_reasons(application)}", "See the Serve logs of this Ray.")
        with contextlib.suppress(httpx.TransportError):
            if status == "RUNNING" and httpx.get(f"{url}/readyz", timeout=5, trust_env=False).is_success:
                return
        parts = application.deployments if application is not None else {}
        waiting = [name for name, part in parts.items() if part.status != "HEALTHY"]
        progress.update(1, waiting_for=",".join(waiting) or "routes")
        time.sleep(1)
    raise RunError(f"The service is not ready after {_START_SECONDS:.0f} s.", "See the Serve logs of this Ray.")


def _reasons(application: Any) -> str:
    """What Serve says about the application and about each of its deployments that is off."""
    parts = {name: part for name, part in application.deployments.items() if part.status != "HEALTHY"}
    return "\n".join(
        [application.message, *(f"{name} ({part.status}): {part.message}" for name, part in parts.items())]
    )


def _drain(jobs: Any, *, seconds: float) -> None:
    """Have every worker finish its step, save its state and give its lease back."""
    try:
        drained = _within(seconds + 10, partial(_drained, jobs, seconds=seconds))
    except Exception as error:  # whatever is broken, Serve must go down
        _logger.warning("the workers could not be told to stop: %s", error)
        return
    if not drained:
        _logger.warning("a worker did not stop in time; its job will go on from its last saved state")


def _drained(jobs: Any, *, seconds: float) -> bool:
    return bool(jobs.drain.remote(timeout_seconds=seconds).result(timeout_s=seconds + 5))


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns. Raises TimeoutError: a call into a Ray that is dead may never come back."""
    answers: queue.SimpleQueue[T | Exception] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put(call())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _stop() -> None:
    """Take the application away, and Serve with it unless it carries others."""
    try:
        _within(_STOP_SECONDS, _shut_down)
    except TimeoutError as error:
        _logger.warning("Serve could not be shut down: %s", error)


def _shut_down() -> None:
    from ray import serve

    if set(serve.status().applications) - {APPLICATION}:
        serve.delete(APPLICATION)
    else:
        serve.shutdown()


def check_port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises RunError when nothing can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            return int(probe.getsockname()[1])
        except OSError as error:
            hint = f"Stop what listens there, or choose another: --port {port + 1 if port else 8001}."
            raise RunError(f"Port {port} on {host} cannot be used: {error.strerror}.", hint) from error
