"""One hash over all that decides a latent's bits: two jobs with the same fingerprint give the same latent."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cogvideox
from groundwork.config import FrozenModel
from serving.jobs.job import JobSettings

# Of these nothing reaches the denoiser: the length as it was asked for, and the name under which the weights go.
_WITHOUT_EFFECT = {"seconds", "model"}
_CODE = ("serving.model", "serving.adapters", "serving.references", "groundwork.media", "groundwork.colour")
_KERNELS = ("flash", "mem_efficient", "cudnn", "math")


class Machine(FrozenModel):
    """What computes, as far as it shows in the bits."""

    package: str
    """Version of this package."""
    code_sha256: str
    torch: str
    """Version, with its build (+cpu, +cu130)."""
    device: str
    """Class of the device, not which one: the GPU's name, or what instructions a CPU has."""
    precision: str
    """Numbers the denoiser computes with."""
    attention: str
    """Backend of torch's attention."""
    layout: str
    """How the work is split: threads on a CPU, guidance's halves on two devices."""


def fingerprint(
    settings: JobSettings, *, weights_sha256: str, adapters_sha256: Mapping[str, str], machine: Machine
) -> str:
    """ "sha256:" and 64 hex digits; `adapters_sha256` holds the hash of every adapter that `settings` name.

    Jobs whose fingerprints differ may still give the same latent; jobs with one fingerprint always do.
    """
    asked = {name: value for name, value in settings.model_dump(mode="json").items() if name not in _WITHOUT_EFFECT}
    if settings.reference is None or settings.reference.kind != "video":
        del asked["fps"]  # it decides which pictures of a video are taken, else it is the file's alone
    for adapter in asked["adapters"]:
        adapter["sha256"] = adapters_sha256[adapter.pop("name")]
    whole = {"settings": asked, "weights": weights_sha256, "machine": machine.model_dump(mode="json")}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def this_machine(*, device: Any, precision: str, num_devices: int = 1) -> Machine:
    """Of the calling process and thread; `device` is torch's."""
    import torch

    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        threads = 0
        kernels = [name for name in _KERNELS if getattr(torch.backends.cuda, f"{name}_sdp_enabled")()]
    else:
        name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        threads = torch.get_num_threads()
        kernels = ["cpu"]
    return Machine(
        package=_version(),
        code_sha256=code_sha256(),
        torch=str(torch.__version__),
        device=name,
        precision=precision,
        attention="sdpa:" + "+".join(kernels),
        layout=f"threads={threads},devices={num_devices}",
    )


def content_sha256(path: Path) -> str:
    """Hash of a file, or of a folder's files with their relative names; nothing else about them counts."""
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    return _over((file.relative_to(path).as_posix(), file) for file in files)


@cache
def code_sha256() -> str:
    """Hash of the Python source that computes."""
    package = Path(cogvideox.__path__[0])
    files = [(f"cogvideox/{file.relative_to(package).as_posix()}", file) for file in package.rglob("*.py")]
    files += [(name, Path(str(import_module(name).__file__))) for name in _CODE]
    return _over(sorted(files))


def _over(files: Iterable[tuple[str, Path]]) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as file:
            digest.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _version() -> str:
    try:
        return version("cogvideox-platform")
    except PackageNotFoundError:
        return "unknown"
