"""Training on Ray as a user sees it: killed workers, stopped drivers, finished and changed runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import yaml

from cogvideox import CogVideoX
from cogvideox.weights import load_denoiser
from groundwork.errors import RecipeError, RunError, StorageError
from groundwork.ray_session import ray_session
from groundwork.run_lock import only_run
from groundwork.storage import open_storage
from training import checkpoint
from training.films import made_series
from training.metrics import read_metrics
from training.previews import make_films
from training.recipe import TrainRecipe
from training.trainer import train

Make = Callable[..., TrainRecipe]
NUM_STEPS = 40


@pytest.fixture(scope="module")
def recipe(recipe_with: Make) -> TrainRecipe:
    stage = {"steps": NUM_STEPS, "tokens_per_pack": 110, "packs_per_step": 3, "learning_rate": 2e-3, "warmup_steps": 5}
    held_out = {"clips": 1, "every_steps": 15}
    checkpoints, samples = {"every_steps": 10, "keep": 2}, {"count": 1, "num_steps": 2}
    engine = {"kind": "ddp"}  # starts in half the time: what engines do to a run is asked elsewhere
    return recipe_with(stages=[stage], checkpoints=checkpoints, samples=samples, held_out=held_out, engine=engine)


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture(scope="module")
def undisturbed(
    ray: None, recipe: TrainRecipe, dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """With films while it trains, which the other runs have not."""
    showing = recipe.model_copy(update={"samples": recipe.samples.model_copy(update={"every_steps": 20})})
    return train(showing, dataset=str(dataset), out=str(tmp_path_factory.mktemp("undisturbed")))


def losses(run: str) -> list[str]:
    rows = read_metrics(open_storage(run))
    return [np.array([row.loss, *row.held_out_loss], np.float32).tobytes().hex() for row in rows]


def wait_for(condition: Callable[[], Any], *, seconds: float = 280.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited too long")


def workers_below(pid: int) -> list[psutil.Process]:
    """The training workers of the embedded Ray that process `pid` started."""
    below = psutil.Process(pid).children(recursive=True)
    return [process for process in below if any("RayTrainWorker" in word for word in process.cmdline()[:1])]


def test_a_run_leaves_everything_the_contract_names(undisturbed: dict[str, Any]) -> None:
    run = Path(undisturbed["run"])
    assert not undisturbed["already_done"]
    assert undisturbed["final_loss"] < 0.8 * undisturbed["first_loss"]
    assert (run / "config.json").is_file()
    assert len(losses(str(run))) == NUM_STEPS
    assert list((run / "tensorboard").iterdir())
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step-000030", "step-000040"]
    page = (run / "report" / "index.html").read_text()
    assert page.count("<svg") == 7
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("<video") == len(list((run / "samples").rglob("*.mp4"))) == 3
    assert page.count("step 40<") >= 1
    assert not (run / "work" / "ray").exists()


def test_films_are_made_while_it_trains_and_from_the_newest_checkpoint_where_theirs_is_gone(
    undisturbed: dict[str, Any], recipe: TrainRecipe, dataset: Path
) -> None:
    run = open_storage(undisturbed["run"])
    made = made_series(run)
    assert len(made) == 2  # of step 20, or of a later one where that was removed meanwhile, and of the end
    assert 20 <= made[0].step <= made[1].step == NUM_STEPS
    assert all(run.exists(series.path(film)) for series in made for film in series.films)
    films = [[run.read_bytes(series.path(film)) for film in series.films] for series in made]
    assert make_films(recipe, run, datasets=[str(dataset)], step=10) == NUM_STEPS
    again = next(series for series in made_series(run) if series.folder.endswith(f"{NUM_STEPS:06d}"))
    assert [run.read_bytes(again.path(film)) for film in again.films] == films[-1]


def test_held_out_clips_are_asked_now_and_then_and_at_the_end(undisturbed: dict[str, Any]) -> None:
    rows = read_metrics(open_storage(undisturbed["run"]))
    measured = [row for row in rows if row.held_out_loss]
    assert [row.step for row in measured] == [15, 30, 40]
    assert {len(row.held_out_loss) for row in measured} == {5}
    assert sum(measured[-1].held_out_loss) < sum(measured[0].held_out_loss)
    assert all(row.flops > 0 for row in rows)


def test_the_weights_are_a_whole_pipeline_of_the_average(undisturbed: dict[str, Any]) -> None:
    model = CogVideoX.from_pretrained(undisturbed["weights"])
    video = model.generate("a city by day", num_frames=9, height=32, width=48, num_steps=2, seed=0)
    assert video.shape == (9, 32, 48, 3)
    average = load_denoiser(undisturbed["weights"])
    plain = load_denoiser(Path(undisturbed["weights"]) / "plain" / "transformer")
    gaps = [float((a - b).detach().abs().max()) for a, b in zip(average.parameters(), plain.parameters(), strict=True)]
    assert 0 < max(gaps) < 0.1
    assert all(torch.isfinite(parameter).all() for parameter in plain.parameters())


def test_a_finished_run_says_so(undisturbed: dict[str, Any], recipe: TrainRecipe, dataset: Path) -> None:
    again = train(recipe, dataset=str(dataset), out=undisturbed["run"])
    assert again == undisturbed | {"already_done": True}


def test_a_changed_recipe_names_its_fields(undisturbed: dict[str, Any], recipe: TrainRecipe, dataset: Path) -> None:
    changed = recipe.model_copy(update={"text_dropout": 0.2, "seed": 5})
    with pytest.raises(RecipeError) as caught:
        train(changed, dataset=str(dataset), out=undisturbed["run"])
    assert "seed: 0 → 5" in str(caught.value)
    assert "text_dropout: 0.1 → 0.2" in str(caught.value)


def test_a_second_start_on_the_same_output_is_refused(recipe: TrainRecipe, dataset: Path, tmp_path: Path) -> None:
    with only_run(open_storage(tmp_path)), pytest.raises(RunError, match="Another run is writing"):
        train(recipe, dataset=str(dataset), out=str(tmp_path))


def test_a_disk_that_cannot_be_written_ends_the_run_with_its_reason(
    ray: None, recipe: TrainRecipe, dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000010").touch()  # where the first one's folder should be
    with pytest.raises(StorageError, match=r"Cannot write .*checkpoints"):
        train(recipe, dataset=str(dataset), out=str(tmp_path))


def test_a_killed_worker_is_replaced_and_nothing_changes(
    undisturbed: dict[str, Any], recipe: TrainRecipe, dataset: Path, tmp_path: Path
) -> None:
    outcome: dict[str, Any] = {}
    run = threading.Thread(target=lambda: outcome.update(train(recipe, dataset=str(dataset), out=str(tmp_path))))
    run.start()
    wait_for((tmp_path / "checkpoints" / "step-000010" / "complete").exists)
    victims = workers_below(os.getpid())
    assert len(victims) == 2
    victims[1].send_signal(signal.SIGKILL)
    run.join(500)
    assert losses(str(tmp_path)) == losses(undisturbed["run"])
    assert outcome["weights_sha256"] == undisturbed["weights_sha256"]
    assert not victims[1].is_running()


def test_a_stopped_and_then_killed_command_goes_on_when_run_again(
    undisturbed: dict[str, Any], recipe: TrainRecipe, dataset: Path, tmp_path: Path
) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    words = ["run", str(path), "--dataset", str(dataset), "--out", str(out), "--json"]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'platform'}{os.pathsep}{root}"}
    agents: list[psutil.Process] = []
    for blow, after in ((signal.SIGTERM, 1), (signal.SIGKILL, 10)):
        command = subprocess.Popen([sys.executable, "-m", "training", *words], env=environment, cwd=root)
        wait_for(lambda after=after: reached(out) >= after)
        # Ray's agents try for a minute to tell a killed cluster about its end.
        started = psutil.Process(command.pid).children(recursive=True)
        family = [process for process in started if not process.name().endswith("Agent")]
        agents += [process for process in started if process not in family]
        command.send_signal(blow)
        assert command.wait(90) == (130 if blow is signal.SIGTERM else -signal.SIGKILL)
        wait_for(lambda family=family: not any(map(alive, family)))
    start = reached(out)
    assert 10 <= start < NUM_STEPS
    summary = train(recipe, dataset=str(dataset), out=str(out))
    assert summary["resumed_from_step"] == start
    assert losses(str(out)) == losses(undisturbed["run"])
    assert summary["weights_sha256"] == undisturbed["weights_sha256"]
    assert json.loads((out / "summary.json").read_text())["steps"] == NUM_STEPS
    wait_for(lambda: not any(map(alive, agents)))


def reached(run: Path) -> int:
    """The step of the newest checkpoint, or, before the first, the step shown as progress."""
    found = checkpoint.newest_complete(open_storage(run)) if run.exists() else None
    progress = run / "work" / "progress.json"
    if found is not None or not progress.exists():
        return found.step if found is not None else 0
    return int(json.loads(progress.read_text())["step"])


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
