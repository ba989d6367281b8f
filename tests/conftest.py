"""Settings that hold for every test: Ray's environment before its first import, own HOME, sample footage."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwork.ray_session import prepare_environment

os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers step back for other processes by default: tests that run beside them would starve them.
os.environ.setdefault("RAY_worker_niceness", "0")
# The first Ray on a machine writes a token file into HOME: tests leave the user's alone.
os.environ["HOME"] = tempfile.mkdtemp(prefix="cvx-home-")
atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
prepare_environment()

_LONGEST = ("test_demo.py", "test_trainer.py", "test_pipeline.py", "test_engines.py", "test_service.py", "test_jobs.py")
"""Begun first, so that at the end no process works on one of them while the others have nothing to do."""

SHARED_FOOTAGE = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest come first; otherwise the order stays."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def sample_videos() -> dict[str, Path]:
    """The clips that arrive inside test dependencies, by file name."""
    from groundwork.footage import sample_footage

    return {path.name: path for path in sample_footage()}


@pytest.fixture(scope="session")
def shared_footage() -> Path:
    """The folder of graded real footage; tests that need it skip where it is absent."""
    if not SHARED_FOOTAGE.is_dir():
        pytest.skip(f"graded footage not found at {SHARED_FOOTAGE}; the same laws are tested on packaged footage")
    return SHARED_FOOTAGE


@pytest.fixture(scope="session")
def s3_uri() -> Iterator[str]:
    """A bucket on a local S3 server: s3://cvx-test?…"""
    import boto3
    from moto.server import ThreadedMotoServer

    names = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="cvx-test")
    yield f"s3://cvx-test/data?endpoint_override={host}:{port}&scheme=http&region=us-east-1&allow_bucket_creation=true"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
