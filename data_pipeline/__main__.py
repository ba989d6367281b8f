"""The command line of the curate stage: `python -m data_pipeline run RECIPE …`, and `cvx curate …`."""

from __future__ import annotations

import sys
from typing import Any

from data_pipeline.recipe import RECIPES, CurateRecipe
from groundwork.commands import Command, Options, RayOptions, Recipes, Repeatable, not_built, run_command_line
from groundwork.config import shipped_recipes
from groundwork.errors import UsageError


class RunOptions(RayOptions):
    """Where the footage comes from and where the dataset goes."""

    input: Repeatable = ()
    """Folder, file or glob with footage, on disk or at s3://, gs://; may be given several times."""
    out: str = ""
    """Dataset folder or URI. Default: datasets/<name of the recipe>."""


class DatasetOptions(Options):
    """Which dataset."""

    dataset: str = ""
    """Dataset folder or URI (also as the first word)."""


def _run(options: RunOptions, recipe: CurateRecipe) -> dict[str, Any]:
    if not options.input:
        raise UsageError("No input is given.", "Name a folder, a file or a glob: --input URI")
    from groundwork.ray_session import prepare_environment

    prepare_environment(options.address)
    from data_pipeline.pipeline import curate

    out = options.out or f"datasets/{recipe.name}"
    return curate(recipe, inputs=list(options.input), out=out, address=options.address)


def _run_text(summary: dict[str, Any]) -> str:
    videos, clips = summary["videos"], summary["clips"]
    rejected = ", ".join(f"{reason} {count}" for reason, count in clips["rejected"].items()) or "none"
    return "\n".join(
        [
            "already done" if summary["already_done"] else f"done in {sum(summary['seconds'].values()):.0f} s",
            f"videos    {videos['read']} read: {videos['ok']} ok, {videos['failed']} failed, "
            f"{videos['duplicate']} duplicate",
            f"clips     {clips['found']} found: {clips['kept']} kept, {sum(clips['rejected'].values())} rejected "
            f"({rejected}), {clips['failed']} failed",
            f"hours     {summary['hours']['read']:.4f} read, {summary['hours']['kept']:.4f} kept",
            f"dataset   {summary['dataset']}",
            f"report    {summary['dataset'].rstrip('/')}/report/index.html",
        ]
    )


def _report(options: DatasetOptions) -> dict[str, str]:
    if not options.dataset:
        raise UsageError("No dataset is given.", "report DATASET")
    from data_pipeline.report import write_report

    return {"report": write_report(options.dataset)}


def _recipes(_: Options) -> list[str]:
    return shipped_recipes(RECIPES)


COMMANDS = (
    Command(
        "run",
        "curate footage into a dataset; run again, it goes on where it stopped",
        RunOptions,
        _run,
        recipes=Recipes(CurateRecipe, RECIPES),
        text=_run_text,
    ),
    Command("recipes", "list the shipped recipes", Options, _recipes, text="\n".join),
    Command(
        "report", "write DATASET/report/index.html again", DatasetOptions, _report, text=lambda made: made["report"]
    ),
    not_built("plan", "what a run would cost, from headers only"),
    not_built("replay", "decide again from stored scores"),
    not_built("label", "review page for labelling"),
    not_built("calibrate", "precision, recall and thresholds against labels"),
    not_built("export", "training shards for other trainers"),
    not_built("forget", "take a video out of every table and shard"),
)


def main(argv: list[str], program: str = "python -m data_pipeline") -> int:
    """Run one command; returns its exit code."""
    if argv[:1] == ["report"] and len(argv) > 1 and not argv[1].startswith("-"):
        argv = ["report", "--dataset", *argv[1:]]
    return run_command_line(program, COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
