"""The command line: recipes by name and kind, overrides, and what is said when something is off."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwork.commands import Command, Options, Recipes, run_command_line
from groundwork.config import load_recipe, shipped_recipes
from training.__main__ import main, recipe_kind
from training.recipe import RECIPES, EngineSettings, TrainRecipe
from training.run_folder import changed_fields


def test_shipped_recipes_are_listed_and_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    names = capsys.readouterr().out.split()
    assert {"toy", "smoke", "toy-autoencoder"} <= set(names)
    for name in shipped_recipes(RECIPES):
        if recipe_kind(name) == "denoiser":
            assert load_recipe(TrainRecipe, name, folder=RECIPES).num_steps > 0


def test_the_recipe_chooses_what_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert recipe_kind("toy") == "denoiser"
    assert recipe_kind("toy-autoencoder") == "autoencoder"
    for recipe, field in (("toy", "--engine.kind"), ("toy-autoencoder", "--kl-weight")):
        with pytest.raises(SystemExit):
            main(["run", recipe, "--help"])
        assert field in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "toy"], "No dataset is given"),
        (["run", "tiny", "--dataset", "x"], "No recipe 'tiny'"),
        (["run"], "needs a RECIPE first"),
        (["report"], "No run is given"),
        (["plan", "toy", "--device", "abacus"], "Devices: a100-40"),
        (["explain", "toy"], "No dataset is given"),
        (["plan", "toy-autoencoder"], "'toy-autoencoder' trains an autoencoder"),
        (["explain", "toy-autoencoder", "--dataset", "x"], "'toy-autoencoder' trains an autoencoder"),
        (["run", "toy", "--dataset", "x", "--ema-decay", "2"], "ema_decay"),
    ],
)
def test_bad_usage_exits_with_2(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words)
    except SystemExit as left:  # tyro's own checks
        code = int(left.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_a_report_of_no_run_and_a_dataset_that_is_none_exit_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert main(["run", "smoke", "--dataset", str(tmp_path), "--out", str(tmp_path / "run")]) == 1
    assert "holds no manifest.json" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_an_unknown_key_names_the_nearest_known_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text((RECIPES / "toy.yaml").read_text().replace("ema_decay", "ema_dekay"))
    assert main(["run", str(recipe), "--dataset", "x"]) == 2
    assert "did you mean 'ema_decay'" in capsys.readouterr().err


def test_changes_are_named_down_to_the_field_except_where_a_run_runs() -> None:
    toy = load_recipe(TrainRecipe, "toy", folder=RECIPES)
    stages = (toy.stages[0].model_copy(update={"steps": 7}),)
    other = toy.model_copy(
        update={"stages": stages, "workers": toy.workers.model_copy(update={"count": 1}), "weighting": "token"}
    )
    changed = changed_fields(toy.model_dump(mode="json"), other.model_dump(mode="json"))
    assert changed == [f"stages.0.steps: {toy.stages[0].steps} → 7", "weighting: sample → token"]


def test_stages_follow_each_other() -> None:
    smoke = load_recipe(TrainRecipe, "smoke", folder=RECIPES)
    first = smoke.stages[0].steps
    assert [smoke.stage_at(step) for step in (0, first - 1, first)] == [(0, 0), (0, first - 1), (1, 0)]
    with pytest.raises(ValueError, match="the schedule has steps 0 to"):
        smoke.stage_at(smoke.num_steps)


@pytest.mark.parametrize(
    ("words", "mode"),
    [(["full"], "full"), (["2"], 2), (["attention", "linear"], ("attention", "linear"))],
)
def test_what_is_recomputed_can_be_said_on_the_command_line(words: list[str], mode: object) -> None:
    recipes = Recipes(TrainRecipe, RECIPES)
    command = Command("run", "", Options, lambda _, recipe: seen.append(recipe.engine), recipes)
    seen: list[EngineSettings] = []
    line = ["run", "toy", "--engine.activation-checkpointing", *words, "--engine.kind", "fsdp"]
    assert run_command_line("train", [command], line) == 0
    assert (seen[0].activation_checkpointing, seen[0].kind) == (mode, "fsdp")
