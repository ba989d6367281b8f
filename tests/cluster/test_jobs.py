"""The stages run as jobs on a Ray that is a separate process: by Ray's own command and by `cvx submit`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.head import BIN, ROOT, Head, ray_head

pytestmark = pytest.mark.story


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head() as running:
        yield running


@pytest.fixture(scope="module")
def dataset(head: Head, tmp_path_factory: pytest.TempPathFactory, sample_videos: dict[str, Path]) -> Path:
    """A dataset curated by a job that Ray's own command submitted."""
    out = tmp_path_factory.mktemp("job") / "dataset"
    line = ["python", "-m", "data_pipeline", "run", "smoke", "--input", str(sample_videos["bikes.mp4"])]
    submitted = run_ray(head, ["job", "submit", "--working-dir", ".", "--", *line, "--out", str(out)])
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    return out


def run_ray(head: Head, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = head.environment | {"RAY_ADDRESS": head.jobs_url}
    return subprocess.run([BIN / "ray", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)


def run_cvx(head: Head, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "conductor", "submit", "--address", head.jobs_url, *words]
    return subprocess.run(command, cwd=ROOT, env=head.environment, capture_output=True, text=True, timeout=500)


def test_curation_runs_as_a_job(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["complete"]
    assert list((dataset / "latents").rglob("*.parquet"))


def test_training_runs_as_a_job_through_cvx_submit(head: Head, dataset: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "training" / "recipes" / "smoke.yaml").read_text())
    recipe["stages"] = [stage | {"steps": 8, "warmup_steps": 2} for stage in recipe["stages"]]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(recipe))
    words = ["--json", "--", "train", "run", str(tmp_path / "short.yaml"), "--dataset", str(dataset)]
    words += ["--out", str(tmp_path / "run")]
    done = run_cvx(head, words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    assert (tmp_path / "run" / "weights" / "model_index.json").is_file()


def test_a_jobs_own_exit_code_and_message_come_back(head: Head, tmp_path: Path) -> None:
    done = run_cvx(head, ["--", "curate", "run", "no-such-recipe", "--out", str(tmp_path / "x")])
    assert done.returncode == 2
    assert "No recipe 'no-such-recipe'" in done.stderr


def test_a_dead_cluster_is_said_at_once() -> None:
    command = [sys.executable, "-m", "conductor", "submit", "--address", "http://127.0.0.1:9", "--", "doctor"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
