"""One hash over all that decides a latent's bits: two jobs with the same fingerprint give the same latent."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import cogvideox
from cogvideox.ranks import Split
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
    """How the work is split: threads on a CPU, halves of guidance, parts of a row of tokens."""


class Maker(NamedTuple):
    """Who took the steps from `from_step` (done before) on."""

    from_step: int
    fingerprint: str


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


def continued(made_by: Sequence[Maker], own: str, *, from_step: int) -> list[Maker]:
    """`made_by` when a job that they took as far as `from_step` is taken on by `own`."""
    if made_by and made_by[-1].fingerprint == own:
        return list(made_by)
    return [*made_by, Maker(from_step, own)]


def of_makers(made_by: Sequence[Maker]) -> str:
    """The fingerprint of a latent: its maker's, or a hash over all of them and where each took over."""
    if len(made_by) == 1 and made_by[0].from_step == 0:
        return made_by[0].fingerprint
    return f"sha256:{hashlib.sha256(json.dumps(made_by).encode()).hexdigest()}"


def this_machine(*, device: Any, precision: str, split: Split) -> Machine:
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
        layout=f"threads={threads},halves={split.halves},parts={split.parts}",
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
