"""Distilling learns, goes on after kill -9 as if nothing had been, and gives what the captioner takes as is."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import tiny_vlms
from support.captioned import Captioned, write_captioned

from data_pipeline.__main__ import main
from data_pipeline.captions.asks import Sampling
from data_pipeline.captions.local_models import LocalModel
from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.captions.training.examples import read_example
from data_pipeline.captions.training.pairs import Pair, read_pairs
from data_pipeline.captions.training.settings import DistilSettings, WorkerSettings
from data_pipeline.captions.training.trainer import train_captioner
from groundwork.errors import RecipeError
from groundwork.storage import open_storage

ROOT = Path(__file__).resolve().parents[2]
TEXTS = {
    "bikes": ("a red car drives along a wet street, at night", "two people walk through a forest, slowly"),
    "bunny": ("a small white dog runs across the sand", "a bird lands on a wooden fence, and looks around"),
    "city": ("the camera pans left over a busy market", "a woman in a yellow coat turns around"),
}
QUICK = ["--num-frames", "2", "--short-side", "56", "--batch-clips", "2", "--accumulate", "2", "--steps", "40",
         "--learning-rate", "0.02", "--lora-rank", "32", "--evaluate-every", "15", "--checkpoint-every", "10",
         "--held-out", "0.3", "--seed", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def data(small_films: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each of three films, with captions by the paper's route."""
    folder = tmp_path_factory.mktemp("captioned")
    clips = [
        Captioned(film, start, start + 1.5, text, [f"it is {text.split()[-1]}", "it ends"])
        for name, film in small_films.items()
        for start, text in zip((0.0, 2.0), TEXTS[name], strict=True)
    ]
    write_captioned(open_storage(folder), clips)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.save_qwen2_5_vl(tmp_path_factory.mktemp("qwen"))


def words(data: Path, base: Path, run: Path) -> list[str]:
    return ["captioner", "train", str(data), "--model", str(base), "--out", str(run), *QUICK]


@pytest.fixture(scope="module")
def trained(data: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(words(data, base, run)) == 0
    return run


def card_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "captioner" / "card.json").read_text()))


def written(run: Path, pairs: list[Pair], *, task: str = "caption") -> list[str]:
    """What the captioner stage's own model writes, loaded and asked as the card says."""
    captioner = CaptionerSettings.model_validate(card_of(run)["captioner"])
    settings = captioner.video if task == "caption" else captioner.language
    model = LocalModel(settings, device="cpu")
    asks = [read_example(pair, short_side=settings.short_side).ask for pair in pairs]
    return [answer.text for answer in model.answer(asks, Sampling(max_new_tokens=48))]


def learnt(data: Path, run: Path) -> list[Pair]:
    settings = DistilSettings.model_validate(card_of(run)["settings"])
    return list(read_pairs(open_storage(data), settings).learnt)


def test_four_clips_are_learnt_by_heart(data: Path, trained: Path) -> None:
    """Only a model that looks at the frames can tell the four apart: the prompt is the same for all."""
    pairs = learnt(data, trained)
    assert len({pair.prompt for pair in pairs}) == 1
    assert written(trained, pairs) == [pair.answer for pair in pairs]


def test_the_run_says_what_was_learnt_and_how_it_went(data: Path, trained: Path, base: Path) -> None:
    card, steps = card_of(trained), open_storage(trained).read_table("metrics.parquet")
    assert steps.column("step").to_pylist() == list(range(1, 41))
    judged = [row["step"] for row in steps.to_pylist() if row["held_out_loss"] is not None]
    assert judged == [15, 30, 40]
    assert steps.column("learning_rate").to_pylist()[0] < 0.02 > steps.column("learning_rate").to_pylist()[-1]
    assert card["base"] == str(base)
    assert card["pairs"] | {"hash": ""} == {"learnt": 4, "held_out": 2, "hash": ""}
    assert card["dataset_hash"] == "d" * 64
    assert sorted(path.name for path in (trained / "captioner").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    ]
    assert card["metrics"]["final_loss"] < 1 < 4 < card["metrics"]["first_loss"]


def test_a_finished_run_does_nothing_and_other_settings_are_refused(
    data: Path, base: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words(data, base, trained), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["already_done"]
    assert main([*words(data, base, trained), "--lora-dropout", "0.2"]) == 2
    assert "lora_dropout: 0.05 → 0.2" in capsys.readouterr().err


def test_a_run_killed_midway_ends_with_the_bytes_of_an_undisturbed_one(
    data: Path, base: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    command = [sys.executable, "-m", "data_pipeline", *words(data, base, run)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(run.glob("checkpoints/*/complete.json")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (run / "captioner").exists()
    (run / "checkpoints" / "checkpoint-35").mkdir()  # as a kill in the middle of writing leaves it
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    began = re.search(r"distil: (\d+)/40 step", done.stderr)
    assert began is not None
    assert int(began[1]) >= 10  # what was done before the kill is not done again
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (run / "captioner" / name).read_bytes() == (trained / "captioner" / name).read_bytes()
    columns = ["step", "loss", "gradient_norm", "held_out_loss"]
    tables = [open_storage(one).read_table("metrics.parquet").select(columns) for one in (run, trained)]
    assert tables[0].equals(tables[1])


def test_a_finished_run_gives_whole_weights_too(data: Path, base: Path, trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    steps = (run / "metrics.parquet").stat().st_mtime_ns
    assert main([*words(data, base, run), "--merge"]) == 0
    assert (run / "metrics.parquet").stat().st_mtime_ns == steps  # nothing was trained again
    files = {path.name for path in (run / "captioner").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= files
    assert "adapter_config.json" not in files
    pairs = learnt(data, run)
    assert written(run, pairs) == [pair.answer for pair in pairs]


def test_a_language_model_learns_to_sum_up_with_all_its_weights(data: Path, tmp_path: Path) -> None:
    settings = DistilSettings(
        model=str(tiny_vlms.save_llama(tmp_path / "llama")), task="summary", system="Sum up.", method="full",
        batch_clips=6, accumulate=1, steps=40, learning_rate=1e-2, held_out=0, gradient_checkpointing=True,
    )  # fmt: skip
    run = tmp_path / "run"
    train_captioner(settings, WorkerSettings(), dataset=str(data), out=str(run))
    pairs = learnt(data, run)
    assert len(pairs) == 6
    assert written(run, pairs, task="summary") == [pair.answer for pair in pairs]


def test_llava_onevision_learns_too(data: Path, tmp_path: Path) -> None:
    settings = DistilSettings(
        model=str(tiny_vlms.save_llava_onevision(tmp_path / "llava")), num_frames=2, short_side=56, batch_clips=4,
        accumulate=1, steps=6, learning_rate=1e-2, vision=True, held_out=0.3,
    )  # fmt: skip
    run = tmp_path / "run"
    summary = train_captioner(settings, WorkerSettings(), dataset=str(data), out=str(run))
    assert summary["final_loss"] < 0.9 * summary["first_loss"]
    assert len(written(run, learnt(data, run))) == 4


def test_a_base_that_is_none_is_said(data: Path, tmp_path: Path) -> None:
    settings = DistilSettings(model=str(data))
    with pytest.raises(RecipeError, match="cannot be loaded as a vision-language model"):
        train_captioner(settings, WorkerSettings(), dataset=str(data), out=str(tmp_path / "run"))
