"""`cvx submit -- curate run …`: the same command as a Ray job, with its runtime environment, logs and exit code."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tyro

from groundwork.commands import Command, Options
from groundwork.errors import RunError, UsageError
from groundwork.ray_session import prepare_environment
from groundwork.telemetry import get_logger

_MODULES = {"curate": "data_pipeline", "train": "training", "serve": "serving"}
_EXCLUDES = [".git", ".venv", "demo", "dist", "build", "__pycache__", "**/__pycache__", ".mypy_cache", ".ruff_cache"]


class SubmitOptions(Options):
    """Where to run a command, and the command."""

    address: str = "http://127.0.0.1:8265"
    """The cluster's dashboard address. Its token comes from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."""
    working_dir: str = "."
    """The project folder that travels to the cluster."""
    no_wait: bool = False
    """Return once the job is accepted instead of following its logs."""
    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """The command after `--`, e.g. `-- curate run toy --input s3://… --out s3://…`."""


def entrypoint(words: Sequence[str]) -> str:
    """The shell line that runs `cvx WORDS` on the cluster. Raises UsageError for no or an unknown command."""
    if not words:
        raise UsageError("Which command?", "Example: cvx submit -- curate run toy --input s3://… --out s3://…")
    module = _MODULES.get(words[0])
    rest = list(words[1:]) if module else list(words)
    return shlex.join(["python", "-m", module or "conductor", *rest])


def submit(options: SubmitOptions) -> dict[str, Any]:
    """Submit, stream the logs to standard error, and exit with the job's own exit code when that is not 0."""
    line = entrypoint(options.words)
    if not (Path(options.working_dir) / "platform").is_dir():
        hint = "Run it in the project's folder, or give --working-dir."
        raise UsageError(f"{options.working_dir!r} is not the project: it holds no platform/.", hint)
    client = _client(options.address)
    job = client.submit_job(
        entrypoint=line,
        runtime_env={
            "working_dir": options.working_dir,
            "excludes": _EXCLUDES,
            # Prefixing the entrypoint would reach the driver only: its workers import the packages too.
            "env_vars": {"PYTHONPATH": "platform", "RAY_JOB_STOP_WAIT_TIME_S": "20"},
        },
    )
    get_logger("submit").info("job %s on %s: %s", job, options.address, line)
    if options.no_wait:
        return {"job": job, "status": "SUBMITTED"}
    return _follow(client, job, options.address)


def _client(address: str) -> Any:
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    prepare_environment(address)
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, RayError) as error:
        hint = "Is the cluster up, and does RAY_AUTH_TOKEN_PATH name the file with its token?"
        raise RunError(f"No Ray jobs service answers at {address}: {error}", hint) from error


def _has_token() -> bool:
    """Whether Ray would find a token; asked for one that is not there, it refuses clusters that need none."""
    named = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (Path.home() / ".ray" / "auth_token").is_file()


def _follow(client: Any, job: str, address: str) -> dict[str, Any]:
    async def stream() -> None:
        async for lines in client.tail_job_logs(job):
            sys.stderr.write(lines)

    try:
        asyncio.run(stream())
    except KeyboardInterrupt:
        get_logger("submit").info("the job goes on; stop it with: ray job stop --address %s %s", address, job)
        raise
    details = client.get_job_info(job)
    code = details.driver_exit_code if details.driver_exit_code is not None else 1
    result = {"job": job, "status": str(details.status), "exit_code": code}
    if code != 0:
        get_logger("submit").info("job %s ended %s: %s", job, details.status, details.message)
        sys.exit(code)
    return result


COMMAND = Command(
    name="submit",
    summary="run any command as a Ray job: cvx submit [--address URL] -- curate run …",
    options=SubmitOptions,
    run=submit,
    text=lambda result: f"job {result['job']}: {result['status']}",
)
