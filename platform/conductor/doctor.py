"""`cvx doctor`: looks at this machine and says what works, what does not, and what to do."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groundwork import media
from groundwork.commands import Command, Options
from groundwork.errors import PlatformError
from groundwork.storage import open_storage

_GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `remedy` is empty where it works."""

    what: str
    works: bool
    detail: str
    remedy: str = ""


class DoctorOptions(Options):
    """What to look at besides the machine."""

    storage: str = ""
    """A storage URI to try: writes, reads and deletes one small file there."""


def examine(options: DoctorOptions) -> dict[str, Any]:
    """Every finding, and whether all of them are fine."""
    findings = [finding for look in _looks(options) for finding in look()]
    return {"works": all(finding.works for finding in findings), "findings": [asdict(finding) for finding in findings]}


def _looks(options: DoctorOptions) -> Iterator[Callable[[], list[Finding]]]:
    yield _python
    yield _packages
    yield _machine
    yield _codecs
    yield _gpus
    yield _toy_weights
    if options.storage:
        yield lambda: _storage(options.storage)


def _python() -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    works = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return [Finding("Python", works, version, "" if works else "Use Python 3.11, 3.12 or 3.13.")]


def _packages() -> list[Finding]:
    found = []
    for name in ("torch", "ray", "deepspeed", "av", "opencv-python-headless", "scenedetect", "pyarrow", "transformers"):
        try:
            found.append(Finding(name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append(
                Finding(name, False, "not installed", "Run `make demo` or `make test`: both install the pinned set.")
            )
    return found


def _machine() -> list[Finding]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
    disk = shutil.disk_usage(tempfile.gettempdir()).free / _GIB
    return [
        Finding("CPU cores", True, str(os.cpu_count())),
        Finding("memory", memory >= 6, f"{memory:.1f} GiB", "" if memory >= 6 else "The demo needs about 6 GiB."),
        Finding("temporary disk", disk >= 2, f"{disk:.1f} GiB free", "" if disk >= 2 else "Free 2 GiB or set TMPDIR."),
    ]


def _codecs() -> list[Finding]:
    """Encode and decode a real clip: the codecs are those inside PyAV, no system ffmpeg is asked for."""
    frames = np.random.default_rng(0).integers(0, 255, (9, 96, 144, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        try:
            media.write_video(path, frames, fps=8)
            decoded = len(list(media.read_frames(path)))
        except PlatformError as error:
            return [Finding("H.264 in mp4", False, str(error), "Reinstall PyAV: pip install --force-reinstall av")]
    return [Finding("H.264 in mp4", decoded == 9, f"{decoded} of 9 frames came back")]


def _gpus() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        return [Finding("GPU", True, "none: toy runs on CPU; the published sizes need one")]
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return [Finding("GPU", True, names)]


def _toy_weights() -> list[Finding]:
    from cogvideox.weights import load_autoencoder, toy_autoencoder_folder

    try:
        load_autoencoder(toy_autoencoder_folder())
    except PlatformError as error:
        return [Finding("toy autoencoder weights", False, str(error), "Check out the project again.")]
    return [Finding("toy autoencoder weights", True, "load")]


def _storage(uri: str) -> list[Finding]:
    try:
        storage = open_storage(uri)
        storage.write_bytes(".doctor", b"written by cvx doctor")
        same = storage.read_bytes(".doctor") == b"written by cvx doctor"
        storage.delete(".doctor")
    except PlatformError as error:
        return [Finding(f"storage {uri}", False, str(error), "Check address, rights and credentials.")]
    return [Finding(f"storage {uri}", same, "write, read, delete")]


def render(result: dict[str, Any]) -> str:
    """The findings as a table for people."""
    rows = []
    for finding in result["findings"]:
        mark = "ok  " if finding["works"] else "FAIL"
        remedy = f"\n       → {finding['remedy']}" if finding["remedy"] else ""
        rows.append(f"  {mark}  {finding['what']:<26} {finding['detail']}{remedy}")
    return "\n".join(rows)


COMMAND = Command(
    name="doctor",
    summary="what works on this machine, what does not, what to do",
    options=DoctorOptions,
    run=examine,
    text=render,
)
