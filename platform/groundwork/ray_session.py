"""An address, or none, becomes a connected Ray that is shut down again: embedded on loopback, or a given cluster."""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from groundwork.errors import RunError
from groundwork.telemetry import get_logger

_MIB = 1 << 20
_END_SECONDS = 10.0

# Read by Ray when it is imported or started. Loopback only, no usage report, no uv hook, and the file reader that
# keeps one block per file.
_EMBEDDED_ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its error lines are about restarts it handles; ours are for people
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_REPORT_URL": "http://127.0.0.1:9/",
}
_ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DATA_USE_DATASOURCE_V2": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def chosen_address(address: str | None) -> str | None:
    """The address given, else RAY_ADDRESS, else None: embedded. A Ray that merely happens to run is never joined."""
    return address or os.environ.get("RAY_ADDRESS") or None


def prepare_environment(address: str | None = None) -> None:
    """Set the variables that Ray reads when imported: call it before the first `import ray`. What is set stays."""
    defaults = _ENVIRONMENT | ({} if chosen_address(address) else _EMBEDDED_ENVIRONMENT)
    if _has_gpu():
        defaults.pop("DS_ACCELERATOR", None)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


@contextmanager
def ray_session(address: str | None = None, *, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    A Ray that this process is connected to already is used as it is. Otherwise `address` or RAY_ADDRESS is probed and
    joined; without either an embedded Ray starts on loopback with its own folder and ends with the block. Embedded
    logical CPUs are never fewer than 8, because stages reserve fractions and would wait for each other forever.

    Raises RunError when the address does not answer.
    """
    prepare_environment(address)
    import ray

    if ray.is_initialized():
        yield
        return
    target = chosen_address(address)
    if target is None:
        with _embedded(num_cpus or max(8, os.cpu_count() or 1)):
            yield
        return
    _probe(target)
    _init(address=target, log_to_driver=True, logging_level="WARNING")
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _embedded(num_cpus: int) -> Iterator[None]:
    import ray

    # Sockets live below this folder and their paths may not pass 107 characters, so it stays short.
    folder = Path(tempfile.mkdtemp(prefix="cvx-ray-", dir="/tmp" if Path("/tmp").is_dir() else None))  # noqa: S108
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(_token())
    before = {name: os.environ.get(name) for name in ("RAY_AUTH_TOKEN_PATH",)}
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    try:
        get_logger("ray").info("starting an embedded Ray on this machine (loopback only)")
        _init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=_object_store_bytes(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
        )
        # log_to_driver=False leaves one stream on: notices of retried tasks, printed to standard output.
        ray._private.worker._worker_logs_enabled = False
        yield
    finally:
        family = _below_raylet(folder)
        ray.shutdown()
        _end(family)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)


def _below_raylet(folder: Path) -> list[psutil.Process]:
    """The servers of the embedded Ray in `folder`, and every process that they started."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            if str(folder) in " ".join(child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def _end(processes: list[psutil.Process]) -> None:
    """End what outlives its raylet: agents look for it now and then, and on a busy machine for more than a minute."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=_END_SECONDS)


@functools.cache
def _token() -> str:
    """This process's token: Ray reads one once and keeps it, so that every embedded Ray of a process needs the same."""
    return secrets.token_hex(32)


def _init(**settings: Any) -> None:
    """`ray.init` without its SIGTERM handlers: one exits with 15, one below Python aborts 3 s after the signal."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    ray.init(**settings)
    if callable(handler) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _object_store_bytes() -> int:
    """A tenth of the memory, 256 MiB to 2 GiB: rows here are small, and machines of 8 GiB are served."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(max(total // 10, 256 * _MIB), 2048 * _MIB))


def _probe(address: str) -> None:
    """Fail at once on a dead address: Ray's own client retries for minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 6379), timeout=5):
            pass
    except OSError as error:
        hint = "Start it (ray start --head …), or leave --address out for an embedded Ray."
        raise RunError(f"No Ray answers at {address}: {error}", hint) from error


def room_for(*, cpus: float, gpus: float, least: int, memory: int = 0) -> int:
    """How many workers of so many CPUs, GPUs and bytes of memory each the cluster can hold; Ray must be connected.

    Raises RunError when that is fewer than `least`: Ray would wait for ever for what it does not have.
    """
    import ray

    have = ray.cluster_resources()
    room = []
    for name, wanted in (("CPU", cpus), ("GPU", gpus), ("memory", memory)):
        if wanted:
            room.append(int(have.get(name, 0.0) / wanted + 1e-6))
            if room[-1] < least:
                raise RunError(
                    f"{least} workers ask for {least * wanted:g} {name}, and Ray has {have.get(name, 0.0):g}.",
                    "Lower --workers.cpus, --workers.encode-gpus, --workers.memory-mib or --workers.at-least.",
                )
    return min(room)


@contextmanager
def data_context(*, stuck_seconds: float) -> Iterator[None]:
    """Ray Data's settings, which it copies into a dataset when that is created: a block that fails costs that block,
    and no block finishing for so many seconds is an error."""
    from ray.data import DataContext
    from ray.util.annotations import RayDeprecationWarning

    context = DataContext.get_current()
    names = {
        "max_errored_blocks": -1,
        "execution_no_progress_timeout_s": stuck_seconds,
        "enable_progress_bars": False,
        "use_datasource_v2": False,
    }
    before = {name: getattr(context, name) for name in names}
    for name, value in names.items():
        setattr(context, name, value)
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.ERROR)  # its log file keeps everything; people see our own progress
    try:
        with warnings.catch_warnings():
            # Ray 2.60 offers no other way to say max_task_retries; the version is pinned.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _has_gpu() -> bool:
    return any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/kfd"))
