"""One run per dataset: a small file with a heartbeat says who writes; what a dead run left behind gives way."""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from groundwork.errors import RunError, StorageError
from groundwork.storage import Storage

LOCK_FILE = "work/run.lock"
_BEAT_SECONDS = 5.0
_STALE_SECONDS = 60.0
_SETTLE_SECONDS = 0.2


@contextmanager
def only_run(out: Storage) -> Iterator[None]:
    """Hold the dataset for the length of the block.

    A lock counts as left behind when its process on this machine is gone, or, written on another machine, when its
    heartbeat is older than 60 s. Raises RunError while another run holds it.
    """
    token = uuid.uuid4().hex
    holder = _read(out)
    if holder is not None and _is_alive(holder):
        raise _busy(out, holder)
    _write(out, token)
    # Object stores have no exclusive create: of two that write at once the last one stays, and both look again.
    time.sleep(_SETTLE_SECONDS)
    holder = _read(out)
    if holder is None or holder["token"] != token:
        raise _busy(out, holder or {})
    stopped = threading.Event()
    beat = threading.Thread(target=_keep_beating, args=(out, token, stopped), daemon=True)
    beat.start()
    try:
        yield
    finally:
        stopped.set()
        beat.join()
        with suppress(StorageError):
            out.delete(LOCK_FILE)


def _busy(out: Storage, holder: dict[str, Any]) -> RunError:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    return RunError(
        f"Another run is writing {out.uri} ({who}).", "Wait for it, stop it, or give another --out for this one."
    )


def _keep_beating(out: Storage, token: str, stopped: threading.Event) -> None:
    while not stopped.wait(_BEAT_SECONDS):
        with suppress(StorageError):  # a full disk is reported by the run itself
            _write(out, token)


def _write(out: Storage, token: str) -> None:
    pid = os.getpid()
    out.write_json(
        LOCK_FILE,
        {"token": token, "host": socket.gethostname(), "pid": pid, "born": _born(pid), "beat": time.time()},
    )


def _read(out: Storage) -> dict[str, Any] | None:
    try:
        return dict(out.read_json(LOCK_FILE)) if out.exists(LOCK_FILE) else None
    except (StorageError, ValueError):
        return None


def _is_alive(holder: dict[str, Any]) -> bool:
    if holder.get("host") == socket.gethostname():
        return bool(holder.get("born")) and _born(int(holder.get("pid", 0))) == holder["born"]
    return time.time() - float(holder.get("beat", 0)) < _STALE_SECONDS


def _born(pid: int) -> str:
    """Start time of a process in kernel ticks, so that a reused pid is not taken for the old one; empty: gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _born_without_proc(pid)
    return "" if fields[0] == "Z" else fields[19]


def _born_without_proc(pid: int) -> str:
    if Path("/proc/self/stat").exists() or pid <= 0:
        return ""
    with suppress(OSError):
        os.kill(pid, 0)
        return str(pid)
    return ""
