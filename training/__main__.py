"""The command line of the training stage: `python -m training run RECIPE …`, and `cvx train …`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from groundwork.commands import Command, Options, RayOptions, Recipes, leave, not_built, report_error, run_command_line
from groundwork.config import find_recipe, shipped_recipes
from groundwork.errors import UsageError
from training.recipe import RECIPES, TrainRecipe


class RunOptions(RayOptions):
    """Where the data comes from and where the run goes."""

    dataset: str = ""
    """Dataset folder or URI, as the curation writes it."""
    out: str = ""
    """Run folder or URI. Default: runs/<name of the recipe>."""


class AutoencoderOptions(Options):
    """Where the run goes."""

    out: str = ""
    """Run folder on this machine. Default: runs/autoencoder."""


class ReportOptions(Options):
    """Which run."""

    run: str = ""
    """Run folder or URI (also as the first word)."""


def _run(options: RunOptions, recipe: TrainRecipe) -> dict[str, Any]:
    if not options.dataset:
        raise UsageError("No dataset is given.", "Name the folder that the curation wrote: --dataset URI")
    from groundwork.ray_session import prepare_environment

    prepare_environment(options.address)
    from training.trainer import train

    out = options.out or f"runs/{recipe.name}"
    return train(recipe, dataset=options.dataset, out=out, address=options.address)


def _run_text(summary: dict[str, Any]) -> str:
    head = "already done" if summary["already_done"] else f"done in {summary['seconds']:.0f} s"
    return "\n".join(
        [
            f"{head}: {summary['steps']} steps, {summary['clips']} clips, {summary['steps_per_second']:.2f} steps/s",
            f"loss      {summary['first_loss']:.4f} → {summary['final_loss']:.4f}",
            f"weights   {summary['weights']}",
            f"report    {summary['report']}",
        ]
    )


def _run_autoencoder(options: AutoencoderOptions, recipe: Any) -> dict[str, Any]:
    from groundwork.telemetry import Progress
    from training.autoencoder import train

    out = Path(options.out or "runs/autoencoder")
    with Progress("train autoencoder", total=recipe.num_steps, unit="step") as progress:

        def show(row: dict[str, float]) -> None:
            progress.update(1, loss=f"{row['loss']:.4f}")

        weights = train(recipe, out, on_step=show)
    return {"run": str(out), "weights": str(weights)}


def _report(options: ReportOptions) -> dict[str, str]:
    if not options.run:
        raise UsageError("No run is given.", "report RUN")
    from training.report import write_report

    return {"report": write_report(options.run)}


def _recipes(_: Options) -> list[str]:
    return shipped_recipes(RECIPES)


_RUN_SUMMARY = "train; run again, it goes on where it stopped"

COMMANDS = (
    Command("run", _RUN_SUMMARY, RunOptions, _run, recipes=Recipes(TrainRecipe, RECIPES), text=_run_text),
    Command("report", "write RUN/report/index.html again", ReportOptions, _report, text=lambda made: made["report"]),
    Command("recipes", "list the shipped recipes", Options, _recipes, text="\n".join),
    not_built("plan", "memory, tokens per step, fill, time and cost before anything starts"),
)


def _autoencoder_commands() -> tuple[Command, ...]:
    from training.autoencoder import AutoencoderRecipe

    recipes = Recipes(AutoencoderRecipe, RECIPES)
    return (
        Command(
            "run",
            _RUN_SUMMARY,
            AutoencoderOptions,
            _run_autoencoder,
            recipes=recipes,
            text=lambda made: f"weights   {made['weights']}",
        ),
    )


def recipe_kind(name_or_path: str) -> str:
    """The `kind` that a recipe file declares: "denoiser" or "autoencoder". Raises RecipeError when there is no file."""
    try:
        raw = yaml.safe_load(find_recipe(name_or_path, folder=RECIPES).read_text())
    except yaml.YAMLError:
        return "denoiser"  # the command says what is wrong with the file
    return str(raw.get("kind", "denoiser")) if isinstance(raw, dict) else "denoiser"


def _kind_asked_for(argv: list[str]) -> str:
    named = argv[:1] == ["run"] and len(argv) > 1 and not argv[1].startswith("-")
    return recipe_kind(argv[1]) if named else "denoiser"


def main(argv: list[str], program: str = "python -m training") -> int:
    """Run one command; returns its exit code."""
    if argv[:1] == ["report"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv = ["report", "--run", *argv[1:]]
    try:
        kind = _kind_asked_for(argv)
    except UsageError as error:
        return report_error(error)
    return run_command_line(program, _autoencoder_commands() if kind == "autoencoder" else COMMANDS, argv)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
