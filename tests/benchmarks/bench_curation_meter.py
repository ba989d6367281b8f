"""A command becomes the CPU seconds and the memory of its whole process tree, Ray's daemons and workers included.

Every fifth of a second the tree below the command is read from /proc, and so are processes that a parent left behind
(this process adopts them: Linux's child subreaper); per process the last reading counts. Against it stands what the
kernel sums up for children that were waited for, exact but blind to children that Ray's raylet never waits for: the
larger of the two is the answer. A process's last fifth of a second may be missing, which favours nobody.
"""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
_SECONDS_BETWEEN = 0.2
COMMAND = "command"
KINDS = {
    "decoding": ("data_pipeline.decode_child",),
    "ray workers": ("ray::Map", "MapWorker", "EncodeClips", "CutClips"),
    "ray itself": ("ray::", "raylet", "gcs_server", "default_worker.py", "/ray/"),
    COMMAND: (),
}
Seen = dict[tuple[int, float], tuple[float, str]]


@dataclass(frozen=True)
class Measured:
    """CPU seconds (user and system), how the sampled part of them falls on kinds of processes, and the largest sum of
    resident bytes seen."""

    cpu_seconds: float
    by_kind: dict[str, float]
    peak_bytes: int


def measure(command: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> Measured:
    """Run the command to its end. Raises RuntimeError when it fails."""
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    before = _waited_for()
    known = {child.pid for child in psutil.Process().children(recursive=True)}
    seen: Seen = {}
    peak = 0
    done = threading.Event()
    process = subprocess.Popen(
        list(command), cwd=cwd, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def watch() -> None:
        nonlocal peak
        while not done.wait(_SECONDS_BETWEEN):
            peak = max(peak, _read_tree(seen, known))

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    _wait_for_orphans(known)
    done.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} … ended with {process.returncode}:\n{errors[-2000:]}")
    by_kind = {kind: round(sum(own for own, its in seen.values() if its == kind), 2) for kind in KINDS}
    return Measured(max(_waited_for() - before, sum(own for own, _ in seen.values())), by_kind, peak)


def _kind(command: str) -> str:
    """What a process is for; Ray's workers name themselves after they have started."""
    return next((kind for kind, words in KINDS.items() if any(word in command for word in words)), COMMAND)


def _read_tree(seen: Seen, known: set[int]) -> int:
    resident = 0
    for child in psutil.Process().children(recursive=True):
        if child.pid not in known:
            try:
                times = child.cpu_times()
                seen[child.pid, child.create_time()] = (times.user + times.system, _kind(" ".join(child.cmdline())))
                resident += child.memory_info().rss
            except psutil.Error:
                continue
    return resident


def _waited_for() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wait_for_orphans(known: set[int]) -> None:
    """What the command left behind ends by itself; it is waited for, so that it counts."""
    left = [child for child in psutil.Process().children() if child.pid not in known]
    _, alive = psutil.wait_procs(left, timeout=30)
    for child in alive:
        child.kill()
    for child in left:
        try:
            os.waitpid(child.pid, 0)
        except ChildProcessError:
            continue
