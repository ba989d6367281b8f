"""A request to decode goes to a child process that may be ended at any time; a table or a reason comes back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from data_pipeline.failures import CRASHED, OUT_OF_MEMORY, TIMEOUT, UNREADABLE
from data_pipeline.recipe import LimitSettings, NeuralSettings

_WATCH_SECONDS = 0.1
_MIB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """The measurements of one part of a video that has `num_parts` of them."""

    table: pa.Table
    num_parts: int


@dataclass(frozen=True)
class Refused:
    """Why there are no measurements."""

    reason: str
    detail: str


class Sandbox:
    """One decoding process, started once, and again only after it had to be ended. Use from one thread."""

    def __init__(self, limits: LimitSettings, *, neural: NeuralSettings | None = None) -> None:
        self._limits = limits
        self._neural = (neural or NeuralSettings()).model_dump(mode="json")
        self._child: _Child | None = _Child()  # it loads its libraries while the caller goes on

    @property
    def pid(self) -> int | None:
        """Of the decoding process; None when it was ended."""
        return None if self._child is None else self._child.process.pid

    def analyse(self, path: str | Path, *, split_seconds: float = 0.0, part: int = 0) -> Measured | Refused:
        """Measure part `part` of a video on the local disk, cut into parts of about `split_seconds` (0: one part)."""
        self._child = child = self._child or _Child()
        watch = _Watch(child.process.pid, self._limits)
        limits = {"max_pixels": self._limits.max_pixels, "max_frames": self._limits.max_frames, "neural": self._neural}
        try:
            child.send({"path": str(path), "part": part, "split_seconds": split_seconds, **limits})
            while True:
                refused = child.wait(watch)
                if refused is not None:
                    break
                reply = json.loads(child.connection.recv_bytes())
                if reply["status"] == "decoding":
                    watch.allow(reply["seconds"])
                elif reply["status"] == "ok":
                    return Measured(pa.ipc.open_stream(child.connection.recv_bytes()).read_all(), reply["num_parts"])
                else:
                    return Refused(reply["reason"], reply["detail"])
        except (EOFError, OSError):
            refused = Refused(CRASHED, f"the decoding process died: {child.last_words()}")
        self.close()
        return refused

    def close(self) -> None:
        """End the decoding process."""
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """The process and our end of the socket to it; it ends itself when that end closes."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            command = [sys.executable, "-m", "data_pipeline.decode_child", str(theirs.fileno())]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            self.process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def send(self, message: dict[str, Any]) -> None:
        self.connection.send_bytes(json.dumps(message).encode())

    def wait(self, watch: _Watch) -> Refused | None:
        """Until there is something to receive, or a limit is passed."""
        while not self.connection.poll(_WATCH_SECONDS):
            refused = watch.excess()
            if refused is not None:
                return refused
        return None

    def last_words(self) -> str:
        """How the process ended."""
        code = self.process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


class _Watch:
    """Whether a process stays within its limits, from now on."""

    def __init__(self, pid: int, limits: LimitSettings) -> None:
        self._process = psutil.Process(pid)
        self._limits = limits
        self._allowed_seconds = limits.cpu_seconds
        self._started_at = self._last_cpu = self._cpu_seconds()
        self._last_use = time.monotonic()

    def allow(self, decoding_seconds: float) -> None:
        """So much film is about to be decoded."""
        self._allowed_seconds += decoding_seconds / 60 * self._limits.cpu_seconds_per_minute

    def excess(self) -> Refused | None:
        """The limit that is passed, if one is. The details name limits, never measurements: equal runs, equal rows."""
        try:
            memory, cpu = self._process.memory_info().rss, self._cpu_seconds()
        except psutil.NoSuchProcess:
            return None  # its closed socket says so
        if memory > self._limits.memory_mib * _MIB:
            return Refused(OUT_OF_MEMORY, f"decoding takes more than {self._limits.memory_mib} MiB")
        if cpu - self._started_at > self._allowed_seconds:
            return Refused(TIMEOUT, f"decoding takes more than {self._allowed_seconds:.0f} CPU seconds")
        if cpu > self._last_cpu:
            self._last_cpu, self._last_use = cpu, time.monotonic()
        elif time.monotonic() - self._last_use > self._limits.idle_seconds:
            return Refused(UNREADABLE, f"reading stands still for more than {self._limits.idle_seconds:g} s")
        return None

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
