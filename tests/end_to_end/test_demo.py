"""The commands of the README on real footage: what comes out is checked for content, not for existence."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.compute as pc
import pytest
import torch

from cogvideox import CogVideoX
from conductor.films import films, latent_tensor, psnr
from groundwork import media
from groundwork.records import Clip, Decision, Latent, Rejected, Video, from_table
from groundwork.storage import Storage, open_storage

pytestmark = [pytest.mark.story, pytest.mark.timeout(1600)]
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Demo:
    """A finished demo: its folder, its input folder, and what it printed."""

    out: Path
    videos: Path
    printed: str

    @property
    def dataset(self) -> Storage:
        return open_storage(self.out / "dataset")

    def json(self, name: str) -> Any:
        return json.loads((self.out / name).read_text())


def make_demo(out: Path, videos: Path) -> subprocess.CompletedProcess[str]:
    words = ["make", "demo", "PRESET=smoke", f"OUT={out}", f"VIDEOS={videos}", f"VENV={sys.prefix}"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=1500)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, sample_videos: dict[str, Path]) -> Demo:
    """`make demo` on three real clips, a copy of one, a cut-off file, an empty file and a text file."""
    videos = tmp_path_factory.mktemp("footage")
    for name, path in sample_videos.items():
        shutil.copy(path, videos / name)
    shutil.copy(sample_videos["bikes.mp4"], videos / "copy of bikes.mp4")
    whole = sample_videos["bikes.mp4"].read_bytes()
    (videos / "cut-off.mp4").write_bytes(whole[: len(whole) // 2])
    (videos / "empty.mp4").touch()
    (videos / "notes.txt").write_text("not a video")
    out = tmp_path_factory.mktemp("demo") / "out"
    done = make_demo(out, videos)
    assert done.returncode == 0, done.stdout + done.stderr
    return Demo(out=out, videos=videos, printed=done.stdout)


def test_it_ends_by_saying_where_everything_lies(demo: Demo) -> None:
    for name in ("index.html", "video.mp4", "dataset", "run/weights"):
        assert str(demo.out / name) in demo.printed
        assert (demo.out / name).exists()


def test_every_input_is_accounted_for(demo: Demo) -> None:
    manifest = demo.json("dataset/manifest.json")
    videos = from_table(demo.dataset.read_table("videos"), Video)
    named = {Path(video.uri).name: video for video in videos}
    readable = {"bigbuckbunny.mp4", "bikes.mp4", "cityCC0.mpg", "copy of bikes.mp4"}
    assert set(named) >= readable | {"cut-off.mp4", "empty.mp4"}
    assert {name for name, video in named.items() if video.status == "failed"} >= {"cut-off.mp4", "empty.mp4"}
    assert all(video.reason for video in videos if video.status != "ok")
    clips = from_table(demo.dataset.read_table("clips"), Clip)
    decisions = from_table(demo.dataset.read_table("decisions"), Decision)
    assert {clip.clip_id for clip in clips} == {decision.clip_id for decision in decisions}
    kept = {decision.clip_id for decision in decisions if decision.kept}
    latents = from_table(demo.dataset.read_table("latents"), Latent)
    failed = {row.clip_id for row in from_table(demo.dataset.read_table("rejected"), Rejected) if row.failed}
    assert {latent.clip_id for latent in latents} == kept - failed
    assert manifest["complete"]


def test_the_loss_falls(demo: Demo) -> None:
    losses = open_storage(demo.out / "run").read_table("metrics.parquet")["loss"]
    tenth = max(1, len(losses) // 10)
    first, last = pc.mean(losses.slice(0, tenth)).as_py(), pc.mean(losses.slice(len(losses) - tenth)).as_py()
    assert last < 0.6 * first


def test_the_mp4_has_the_asked_size_frames_and_rate(demo: Demo) -> None:
    header = media.probe(demo.out / "video.mp4")
    frames = list(media.read_frames(demo.out / "video.mp4"))
    asked = demo.json("video.json")["video"]
    assert f"{header.width}x{header.height}" == asked["size"] == "144x96"
    assert (len(frames), header.fps) == (asked["x"]["num_frames"], asked["x"]["fps"]) == (17, 8.0)


def test_the_film_resembles_its_footage_and_a_random_model_does_not(demo: Demo) -> None:
    """Noise has the wrong latent statistics and no likeness to the footage whose caption was the prompt."""
    model = CogVideoX.from_pretrained(demo.out / "run" / "weights")
    footage = films(demo.dataset, variant=model.variant, autoencoder=model.autoencoder, limit=1)[0].footage
    made = media.stack_frames(list(media.read_frames(demo.out / "video.mp4")))
    asked = demo.json("video.json")
    steps = asked["video"]["x"]["steps"]
    random_model = CogVideoX.toy(seed=1)
    noise = random_model.generate(asked["request"]["prompt"], num_steps=steps, seed=0).numpy()
    assert psnr(made, footage) > psnr(noise, footage) + 2.0
    likeness = np.corrcoef(made.ravel(), footage.ravel())[0, 1]
    assert likeness > 0.5
    assert likeness > np.corrcoef(noise.ravel(), footage.ravel())[0, 1] + 0.2
    stored = torch.cat([latent_tensor(row).flatten() for row in from_table(demo.dataset.read_table("latents"), Latent)])
    assert 0.5 < encoded_std(model, made) / float(stored.std()) < 1.5


def encoded_std(model: CogVideoX, frames: media.Frames) -> float:
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        latent = model.autoencoder.encode(pixels).mode()
    return float((latent * model.variant.scale_factor).std())


def test_the_page_shows_all_of_it_and_needs_nothing_else(demo: Demo) -> None:
    page = (demo.out / "index.html").read_text()
    for heading in ("The film", "The funnel", "The loss", "Footage and its reconstruction", "Time and memory"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<video src='data:video/mp4;base64,") >= 3
    assert "http://" not in page
    assert "https://" not in page


def test_a_second_run_does_nothing_twice(demo: Demo) -> None:
    before = {path: path.stat().st_mtime_ns for path in (demo.out / "dataset" / "latents").rglob("*.parquet")}
    video = (demo.out / "video.mp4").read_bytes()
    again = make_demo(demo.out, demo.videos)
    assert again.returncode == 0, again.stderr
    assert [f"{name}: already done" in again.stderr for name in ("curate", "train", "serve")] == [True] * 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (demo.out / "video.mp4").read_bytes() == video


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    done = make_demo(tmp_path / "out", tmp_path / "videos")
    assert done.returncode != 0
    assert str(tmp_path / "videos") in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path, demo: Demo) -> None:
    command = [sys.executable, "-m", "conductor", "demo", "--preset", "smoke", "--out", str(tmp_path / "out")]
    command += ["--videos", str(demo.videos)]
    with (tmp_path / "log").open("wb") as log:
        # A shell that runs the suite in the background makes its children deaf to Ctrl-C.
        heeding = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, preexec_fn=heeding)
    started: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    while not any("raylet" in each.name() for each in started) and time.monotonic() < deadline:
        time.sleep(0.5)
        started = psutil.Process(process.pid).children(recursive=True)
    assert started, (tmp_path / "log").read_text()
    time.sleep(5)  # let a stage begin
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    _, left = psutil.wait_procs(started, timeout=20)
    assert left == []
    assert "Traceback" not in (tmp_path / "log").read_text()
