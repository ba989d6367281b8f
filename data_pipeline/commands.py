"""Typed options become calls of the curate stage: the table of its commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from data_pipeline.bucket_plan.command import BUCKETS
from data_pipeline.captions.training.command import COMMAND as DISTIL
from data_pipeline.export.command import EXPORT
from data_pipeline.labels.names import LABELS, NO_LABEL
from data_pipeline.labels.settings import TrainingSettings
from data_pipeline.policy import shipped_policies
from data_pipeline.recipe import RECIPES, CurateRecipe
from groundwork.commands import Command, Options, RayOptions, Recipes, Repeatable, named_command
from groundwork.config import shipped_recipes
from groundwork.errors import UsageError
from groundwork.telemetry import get_logger


class RunOptions(RayOptions):
    """Where the footage comes from and where the dataset goes."""

    input: Repeatable = ()
    """Folder, file, glob or manifest (CSV, JSON lines, Parquet with a column `uri`), on disk, at s3://, gs:// or http://;
    may be given several times."""
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
    _need(options.dataset, "dataset", "report DATASET")
    from data_pipeline.report import write_report

    return {"report": write_report(options.dataset)}


class PlanOptions(Options):
    """What is to be curated, where to, and what experience there is."""

    input: Repeatable = ()
    """Folder, file, glob or manifest (CSV, JSON lines, Parquet with a column `uri`), on disk, at s3://, gs:// or http://;
    may be given several times."""
    out: str = ""
    """Where the dataset would go: its free space is looked up. Default: datasets/<name of the recipe>."""
    like: str = ""
    """A dataset curated before (a sample of the same footage): its yield and cost are taken, with an interval."""


def _plan(options: PlanOptions, recipe: CurateRecipe) -> dict[str, Any]:
    if not options.input:
        raise UsageError("No input is given.", "Name a folder, a file or a glob: --input URI")
    from data_pipeline.plan import plan

    return plan(recipe, inputs=options.input, out=options.out or f"datasets/{recipe.name}", like=options.like)


def _plan_text(result: dict[str, Any]) -> str:
    from data_pipeline.plan import plan_text

    return plan_text(result)


class ReplayOptions(DatasetOptions):
    """Which dataset and by which rules."""

    rules: str = ""
    """A shipped policy (`curate policies` lists them) or a policy file."""


def _replay(options: ReplayOptions) -> dict[str, Any]:
    _need(options.dataset, "dataset", "replay DATASET --rules POLICY")
    _need(options.rules, "policy", "replay DATASET --rules POLICY")
    from data_pipeline.replay import replay

    return replay(options.dataset, rules_from=options.rules)


def _replay_text(result: dict[str, Any]) -> str:
    from data_pipeline.replay import replay_text

    return replay_text(result)


class LabelOptions(DatasetOptions):
    """Which dataset, which clips, under which name."""

    port: int = 8900
    """Port on 127.0.0.1; 0 takes a free one."""
    count: int = 200
    """At most so many clips: three quarters near the thresholds, the others by lot."""
    name: str = "labels"
    """The labels are kept in DATASET/labels/<name>.jsonl; the same name goes on where it stopped."""
    rules: str = ""
    """The policy whose reasons are the labels. Default: the dataset's own."""


def _label(options: LabelOptions) -> None:
    _need(options.dataset, "dataset", "label DATASET")
    from data_pipeline.label.server import address, label_server
    from data_pipeline.label.session import Session
    from groundwork.storage import open_storage

    session = Session(open_storage(options.dataset), name=options.name, count=options.count, rules_from=options.rules)
    with label_server(session, port=options.port) as server:
        get_logger("label").info("open %s (Ctrl-C ends; every label is kept at once)", address(server))
        server.serve_forever()


class TrainLabelsOptions(DatasetOptions):
    """Which dataset, which labels, on which encoder, where the heads go."""

    labels: str = ""
    """A session of `curate label`, or a file: JSON lines, CSV or Parquet (also as the second word)."""
    encoder: str = ""
    """Folder or hub id of an image or video encoder that transformers opens as AutoModel; it stays as it is."""
    revision: str = ""
    """Commit of the hub repository; a hub id is used only with one."""
    out: str = ""
    """Folder or URI of the heads."""
    alias: Repeatable = ()
    """REASON=LABEL: a reason of a policy that stands for one of the six labels, or for none of them (REASON=none); may
    be given several times."""
    precision: float = 0.95
    """Share of the clips above a label's threshold that must have the defect, 0 to 1."""
    num_frames: int = 0
    """Pixel frames of a clip, spread evenly; 0: as many as a video encoder takes, 8 for an image encoder."""
    short_side: int = 336
    """Pixels of the shorter side of these frames, before the encoder's own preparation."""
    batch_clips: int = 8
    """Clips of one film that the encoder sees at once."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the encoder runs."""
    training: TrainingSettings = TrainingSettings()


def _train_labels(options: TrainLabelsOptions) -> dict[str, Any]:
    usage = "label train DATASET LABELS --encoder MODEL --out HEADS"
    for value, what in ((options.dataset, "dataset"), (options.labels, "label file")):
        _need(value, what, usage)
    _need(options.encoder, "encoder", usage)
    _need(options.out, "folder for the heads", usage)
    if not 0 < options.precision <= 1:
        raise UsageError(f"--precision must lie between 0 and 1, got {options.precision:g}.")
    from data_pipeline.labels.train import TrainJob, train_heads

    job = TrainJob(
        dataset=options.dataset,
        labels=options.labels,
        encoder=options.encoder,
        out=options.out,
        revision=options.revision,
        num_frames=options.num_frames,
        short_side=options.short_side,
        precision=options.precision,
        aliases=_aliases(options.alias),
        batch_clips=options.batch_clips,
        device=options.device,
        settings=options.training,
    )
    return train_heads(job)


def _aliases(given: Sequence[str]) -> dict[str, str]:
    found = {}
    for words in given:
        reason, _, label = words.partition("=")
        if label not in (*LABELS, NO_LABEL):
            raise UsageError(f"--alias {words}: {label!r} is none of the six labels.", f"They are {', '.join(LABELS)}.")
        found[reason] = label
    return found


def _train_labels_text(result: dict[str, Any]) -> str:
    from data_pipeline.labels.train import heads_text

    return heads_text(result)


class CalibrateOptions(DatasetOptions):
    """Which dataset, which labels, how sure the thresholds must be."""

    labels: str = ""
    """A session of `curate label`, or a file of JSON lines (also as the second word)."""
    precision: float = 0.95
    """Share of the rejected clips that must deserve it, 0 to 1: a threshold is looked for that reaches it."""
    rules: str = ""
    """The policy to judge. Default: the dataset's own."""


def _calibrate(options: CalibrateOptions) -> dict[str, Any]:
    usage = "calibrate DATASET LABELS"
    _need(options.dataset, "dataset", usage)
    _need(options.labels, "label file", usage)
    if not 0 < options.precision <= 1:
        raise UsageError(f"--precision must lie between 0 and 1, got {options.precision:g}.")
    from data_pipeline.calibrate import calibrate
    from data_pipeline.report import write_calibration

    result = calibrate(options.dataset, options.labels, precision=options.precision, rules_from=options.rules)
    return {**result, "page": write_calibration(options.dataset, result)}


def _calibrate_text(result: dict[str, Any]) -> str:
    from data_pipeline.report.calibration import calibration_text

    return f"{calibration_text(result)}\n\npage      {result['page']}"


class ForgetOptions(DatasetOptions):
    """Which source leaves which dataset."""

    video: str = ""
    """The source: its video_id, or its URI as the videos table names it."""


def _forget(options: ForgetOptions) -> dict[str, Any]:
    usage = "forget DATASET --video ID"
    _need(options.dataset, "dataset", usage)
    _need(options.video, "video", usage)
    from data_pipeline.forget import forget

    return forget(options.dataset, video=options.video)


def _forget_text(result: dict[str, Any]) -> str:
    gone = ["was forgotten before"] if result["already_done"] else result["files_changed"]
    uris = ", ".join(result["uris"])
    return "\n".join([f"forgotten {result['video_id']} ({uris}), {result['clips']} clips", *(f"  {x}" for x in gone)])


def _costs(options: DatasetOptions) -> dict[str, Any]:
    _need(options.dataset, "dataset", "costs DATASET")
    from data_pipeline.rule_costs import rule_costs

    return rule_costs(options.dataset)


def _costs_text(result: dict[str, Any]) -> str:
    from data_pipeline.rule_costs import costs_text

    return costs_text(result)


def _recipes(_: Options) -> list[str]:
    return shipped_recipes(RECIPES)


def _policies(_: Options) -> list[dict[str, Any]]:
    return [policy.model_dump(mode="json") for policy in shipped_policies()]


def _policies_text(policies: list[dict[str, Any]]) -> str:
    lines = []
    for policy in policies:
        lines += [f"{policy['name']}: {policy['source']}"]
        for reason, rule in policy["rules"].items():
            bounds = [f"{side} {rule[side]:g}" for side in ("below", "above") if rule[side] is not None]
            lines += [f"    {reason}: {rule['score']} {' or '.join(bounds)}"]
        lines += [f"    not asked: {item['asks']} ({item['reason']})" for item in policy["not_covered"]]
    return "\n".join(lines)


def _need(value: str, what: str, usage: str) -> None:
    if not value:
        raise UsageError(f"No {what} is given.", usage)


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
    Command("policies", "list the shipped policies with their sources", Options, _policies, text=_policies_text),
    Command(
        "report", "write DATASET/report/index.html again", DatasetOptions, _report, text=lambda made: made["report"]
    ),
    Command(
        "plan",
        "what a run would yield and cost, from the headers of the inputs alone",
        PlanOptions,
        _plan,
        recipes=Recipes(CurateRecipe, RECIPES),
        text=_plan_text,
    ),
    BUCKETS,
    Command("replay", "decide again from stored scores, by another policy", ReplayOptions, _replay, text=_replay_text),
    Command(
        "costs", "what each rule costs and rejects, and the cheapest order", DatasetOptions, _costs, text=_costs_text
    ),
    Command("label", "a page on 127.0.0.1: look at clips near the thresholds, one key per label", LabelOptions, _label),
    Command(
        "label train",
        "train the six labels' heads on a frozen encoder, from a label file",
        TrainLabelsOptions,
        _train_labels,
        text=_train_labels_text,
    ),
    Command(
        "calibrate",
        "precision, recall and thresholds of every rule against labels",
        CalibrateOptions,
        _calibrate,
        text=_calibrate_text,
    ),
    DISTIL,
    EXPORT,
    Command(
        "forget",
        "take a video out of every table, shard, file and cache, and never let it in again",
        ForgetOptions,
        _forget,
        text=_forget_text,
    ),
)

_FIRST_WORDS = {
    "report": ("dataset",),
    "replay": ("dataset",),
    "buckets": ("dataset",),
    "costs": ("dataset",),
    "label": ("dataset",),
    "label train": ("dataset", "labels"),
    "calibrate": ("dataset", "labels"),
    "captioner train": ("dataset",),
    "forget": ("dataset",),
    "export": ("dataset",),
}
"""Options of a command that may be given as plain words, in this order: `report DATASET`."""


def with_flags(argv: Sequence[str]) -> list[str]:
    """`replay DATASET …` → `replay --dataset DATASET …`."""
    chosen = named_command(COMMANDS, argv)
    if chosen is None:
        return list(argv)
    words = chosen.name.split()
    rest, flags = list(argv[len(words) :]), list[str]()
    for name in _FIRST_WORDS.get(chosen.name, ()):
        if rest and not rest[0].startswith("-"):
            flags += [f"--{name}", rest.pop(0)]
    return [*words, *flags, *rest]
