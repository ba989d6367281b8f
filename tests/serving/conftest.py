"""What the service's tests share: toy weights with an untrained denoiser, and settings of a small job."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.variants import TOY
from cogvideox.weights import save_pipeline
from serving.jobs.job import JobSettings


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy WEIGHTS folder; nothing here looks at the pictures, so the autoencoder is untrained too."""
    folder = tmp_path_factory.mktemp("run") / "weights"
    denoiser = Denoiser(TOY.denoiser).initialize(seed=0)
    return save_pipeline(folder, variant=TOY, denoiser=denoiser, autoencoder=Autoencoder(TOY.autoencoder))


@pytest.fixture
def settings() -> JobSettings:
    """A job that a toy could do."""
    return JobSettings(
        model="toy",
        prompt="a bunny in a meadow",
        negative_prompt="",
        num_frames=9,
        height=96,
        width=144,
        fps=8,
        steps=4,
        guidance_scale=6.0,
        seed=7,
        seconds="1",
    )
