"""`cvx demo`: real footage → dataset → trained model → service → a video over HTTP → one page that shows it all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from conductor.client import create_and_download
from conductor.usage import measured
from groundwork import media
from groundwork.commands import Command, Options
from groundwork.config import load_recipe
from groundwork.errors import InputError
from groundwork.footage import SAMPLES, sample_footage
from groundwork.ray_session import ray_session
from groundwork.storage import open_storage
from groundwork.telemetry import Progress, get_logger

log = get_logger("demo")


class DemoOptions(Options):
    """What to run the whole platform on, and where to put it."""

    out: str = "demo"
    """Folder for everything the demo makes. The same folder again goes on where it stopped."""
    preset: Literal["toy", "smoke"] = "toy"
    """toy: a recognisable film in a few minutes. smoke: the same way at its shortest."""
    videos: str = ""
    """A folder of your own footage. Default: the sample clips that the installation brings."""
    prompt: str = ""
    """What to generate. Default: the caption of the dataset's first clip."""
    port: int = 0
    """Port of the service on 127.0.0.1; 0 takes a free one."""
    seed: int = 0
    """Seed of the generated video."""


@dataclass(frozen=True)
class Places:
    """Where the demo puts things, below one folder."""

    out: Path

    @property
    def dataset(self) -> Path:
        return self.out / "dataset"

    @property
    def run(self) -> Path:
        return self.out / "run"

    @property
    def weights(self) -> Path:
        return self.run / "weights"

    @property
    def video(self) -> Path:
        return self.out / "video.mp4"

    @property
    def job(self) -> Path:
        return self.out / "video.json"

    @property
    def stages(self) -> Path:
        return self.out / "stages.json"

    @property
    def page(self) -> Path:
        return self.out / "index.html"


def demo(options: DemoOptions) -> dict[str, Any]:
    """Run the three stages on one Ray, then write the page. What is done already is not done again."""
    places = Places(Path(options.out).resolve())
    inputs = _inputs(options.videos)
    places.out.mkdir(parents=True, exist_ok=True)
    stages = _Stages(places.stages)
    with ray_session():
        curated = stages.run("curate", lambda: _curate(options, places, inputs))
        trained = stages.run("train", lambda: _train(options, places))
        prompt = options.prompt or _first_caption(places)
        job = stages.run("serve", lambda: _serve(options, places, prompt))
    from conductor.page import write_page

    stages.run("page", lambda: write_page(places, curated=curated, job=job, usage=stages.usage))
    return {
        "page": str(places.page),
        "dataset": str(places.dataset),
        "weights": str(places.weights),
        "video": str(places.video),
        "prompt": prompt,
        "curate": curated,
        "train": trained,
        "job": job,
        "stages": stages.usage,
    }


def _inputs(videos: str) -> list[str]:
    if not videos:
        for sample in SAMPLES:
            log.info("footage: %s (%s)", sample.name, sample.licence)
        return [str(path) for path in sample_footage()]
    if not Path(videos).exists():
        raise InputError(f"VIDEOS={videos}: no such folder.", "Give a folder that holds video files.")
    return [str(Path(videos).resolve())]


class _Stages:
    """Runs stages and keeps seconds and peak memory of each beside the outputs; a rerun keeps the first figures."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.usage: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}

    def run(self, name: str, body: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        log.info("── %s", name)
        with measured() as used:
            result = body()
        if not result.get("already_done"):
            self.usage[name] = {"seconds": round(used.seconds, 1), "peak_mib": round(used.peak_bytes / 2**20)}
            self._path.write_text(json.dumps(self.usage, indent=2) + "\n")
        log.info("%s: %s", name, "already done" if result.get("already_done") else f"done in {used.seconds:.0f} s")
        return result


def _curate(options: DemoOptions, places: Places, inputs: list[str]) -> dict[str, Any]:
    from data_pipeline.pipeline import curate
    from data_pipeline.recipe import RECIPES, CurateRecipe

    recipe = load_recipe(CurateRecipe, options.preset, folder=RECIPES)
    return curate(recipe, inputs=inputs, out=str(places.dataset))


def _train(options: DemoOptions, places: Places) -> dict[str, Any]:
    from training.recipe import RECIPES, TrainRecipe
    from training.trainer import train

    recipe = load_recipe(TrainRecipe, options.preset, folder=RECIPES)
    return train(recipe, dataset=str(places.dataset), out=str(places.run))


def _first_caption(places: Places) -> str:
    """The caption of the film that the page shows first: the model has seen it, so its answer can be judged by eye."""
    from conductor.films import first_caption

    return first_caption(open_storage(places.dataset))


def _serve(options: DemoOptions, places: Places, prompt: str) -> dict[str, Any]:
    weights_hash = _tree_hash(places.weights)
    request = {"prompt": prompt, "model": "toy", "seed": options.seed}
    if places.job.is_file() and places.video.is_file():
        before: dict[str, Any] = json.loads(places.job.read_text())
        if before["request"] == request and before["weights_sha256"] == weights_hash:
            return {**before, "already_done": True}
    from serving.config import CONFIGS, ServingConfig
    from serving.service import running

    config = load_recipe(ServingConfig, options.preset, folder=CONFIGS)
    with running(config, weights=str(places.weights), host="127.0.0.1", port=options.port) as url:
        log.info("service at %s", url)
        with Progress("generate", total=100, unit="%") as progress:
            shown = 0

            def advance(percent: int) -> None:
                nonlocal shown
                progress.update(percent - shown)
                shown = percent

            video, mp4 = create_and_download(url, request, on_progress=advance)
    places.video.write_bytes(mp4)
    job = {
        "request": request,
        "weights_sha256": weights_hash,
        "video": video,
        "video_sha256": hashlib.sha256(mp4).hexdigest(),
        "header": {name: str(value) for name, value in asdict(media.probe(places.video)).items()},
    }
    places.job.write_text(json.dumps(job, indent=2) + "\n")
    return job


def _tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def render(result: dict[str, Any]) -> str:
    """Where everything lies."""
    rows = [("look at this", result["page"])]
    rows += [(name, result[name]) for name in ("video", "dataset", "weights")]
    rows += [("prompt", result["prompt"])]
    return "\n" + "\n".join(f"  {name:<13} {value}" for name, value in rows)


COMMAND = Command(
    name="demo",
    summary="the whole platform, small: footage → dataset → model → video over HTTP",
    options=DemoOptions,
    run=demo,
    text=render,
)
