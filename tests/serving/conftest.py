"""What the service's tests share: toy weights with an untrained denoiser, and settings of a small job."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cogvideox.autoencoder import Autoencoder
from cogvideox.denoiser import Denoiser
from cogvideox.variants import TOY
from cogvideox.weights import save_pipeline
from serving.jobs.job import JobSettings
from serving.jobs.sql import SqlJobStore
from serving.jobs.store import JobStore
from tests.support.stores import Clock


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


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Postgres of the tests' own, reached by a socket in its folder; skipped where no server is installed."""
    pgserver = pytest.importorskip("pgserver")
    # The path of a socket may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = pgserver.get_server(folder)
        yield server
        server.cleanup()


@pytest.fixture(scope="session")
def new_postgres(postgres: Any) -> Callable[[], str]:
    """Makes an empty database and tells its URL."""
    numbers = itertools.count()

    def make() -> str:
        name = f"test_{next(numbers)}"
        postgres.psql(f"CREATE DATABASE {name};")
        return str(postgres.get_uri(name))

    return make


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "state" / "jobs.sqlite")
    new_database: Callable[[], str] = request.getfixturevalue("new_postgres")
    return new_database()


@pytest.fixture
def store(database: str, clock: Clock) -> Iterator[JobStore]:
    store = SqlJobStore(database, max_losses=2, slice_seconds=5.0, retention_seconds=100, clock=clock)
    yield store
    store.close()
