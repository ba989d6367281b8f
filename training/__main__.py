"""The command line of the training stage: `python -m training run RECIPE …`, and `cvx train …`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from groundwork.commands import Command, Options, RayOptions, Recipes, Repeatable, leave, report_error, run_command_line
from groundwork.config import find_recipe, shipped_recipes
from groundwork.errors import UsageError
from training.recipe import RECIPES, TrainRecipe


class RunOptions(RayOptions):
    """Where the data comes from and where the run goes."""

    dataset: Repeatable = ()
    """Dataset folder or URI, as the curation writes it; may be given several times."""
    out: str = ""
    """Run folder or URI. Default: runs/<name of the recipe>."""


class AutoencoderOptions(Options):
    """Where the run goes."""

    out: str = ""
    """Run folder on this machine. Default: runs/autoencoder."""


class PlanOptions(Options):
    """For what it is planned."""

    dataset: Repeatable = ()
    """Dataset folder or URI whose clips are packed, also several times. None: each clip is taken to fill a row."""
    device: str = "h100"
    """a100-40, a100, h100, h200, b200; here: this machine, by one measured step."""
    run: str = ""
    """Run folder or URI whose steps, made on such devices, say what share of the peak is reached."""
    efficiency: float | None = None
    """Share of the device's peak that work reaches, 0 to 1. Default: 0.40, or what `--run` reached."""
    price_per_hour: float | None = None
    """Of one device, in any currency. Default: a list price in US dollars."""
    link_gbytes_per_second: float | None = None
    """Between two workers, in one direction. Default: 50, a card of 400 Gbit/s each."""
    memory_gib: float | None = None
    """Of one device. Default: that of the device named."""


class ExplainOptions(Options):
    """Which step."""

    dataset: Repeatable = ()
    """Dataset folder or URI, as the curation writes it; may be given several times."""
    step: int = 1
    """Counted from 1, as in metrics."""


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
    damaged = len(summary["damaged_clips"])
    left_out = [f"left out  {damaged} damaged clips, named in {summary['run']}/quarantine"] if damaged else []
    return "\n".join(
        [
            f"{head}: {summary['steps']} steps, {summary['clips']} clips, {summary['steps_per_second']:.2f} steps/s",
            f"loss      {summary['first_loss']:.4f} → {summary['final_loss']:.4f}",
            f"weights   {summary['weights']}",
            f"report    {summary['report']}",
            *left_out,
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


def _plan(options: PlanOptions, recipe: TrainRecipe) -> dict[str, Any]:
    from training.devices import chosen_device
    from training.plan import plan

    clips = _clips_by_stage(options.dataset, recipe) if options.dataset else ()
    changes = {
        "utilization": options.efficiency,
        "price_per_hour": options.price_per_hour,
        "link_bytes_per_second": options.link_gbytes_per_second and 1e9 * options.link_gbytes_per_second,
        "memory_gib": options.memory_gib,
    }
    return plan(recipe, chosen_device(options.device, recipe, run=options.run, changes=changes), clips=clips).to_json()


def _plan_text(made: dict[str, Any]) -> str:
    from training.plan import text

    return text(made)


def _explain(options: ExplainOptions, recipe: TrainRecipe) -> dict[str, Any]:
    if not options.dataset:
        raise UsageError("No dataset is given.", "Name the folder that the curation wrote: --dataset URI")
    from training.datasets import open_data
    from training.explain import explain

    data = open_data(recipe, options.dataset)
    return explain(recipe, data.clips, data.scores, step=options.step)


def _clips_by_stage(datasets: Sequence[str], recipe: TrainRecipe) -> list[Any]:
    from training.datasets import open_data
    from training.order import Order

    data = open_data(recipe, datasets)
    order = Order(recipe, data.clips, data.scores)
    return [order.clips_of(stage) for stage in range(len(recipe.stages))]


def _explain_text(made: dict[str, Any]) -> str:
    from training.explain import text

    return text(made)


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
    Command(
        "plan",
        "memory, tokens per step, fill, time and cost before anything starts",
        PlanOptions,
        _plan,
        recipes=Recipes(TrainRecipe, RECIPES),
        text=_plan_text,
    ),
    Command(
        "explain",
        "what each worker will see in a step",
        ExplainOptions,
        _explain,
        recipes=Recipes(TrainRecipe, RECIPES),
        text=_explain_text,
    ),
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
    """The kind of the recipe that is named. Raises UsageError where the command is not made for it."""
    named = argv[:1] in (["run"], ["plan"], ["explain"]) and len(argv) > 1 and not argv[1].startswith("-")
    kind = recipe_kind(argv[1]) if named else "denoiser"
    if kind == "autoencoder" and argv[0] != "run":
        raise UsageError(
            f"{argv[0]} is about trainings of a denoiser, and {argv[1]!r} trains an autoencoder.",
            f"Give another recipe, or train this one: run {argv[1]}",
        )
    return kind


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
