"""The steps of a run that need no cluster: what stands already, what is decided, to be encoded, and published."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data_pipeline import assessed, closer, dataset, look_order, rules, tables
from data_pipeline.analysis import analysis_fingerprint
from data_pipeline.assess import BUCKET, shortest_seconds
from data_pipeline.assessed import Assessed, ClipTable, assess_fingerprint, read_clips
from data_pipeline.captions import step as captioning
from data_pipeline.captions.kept import caption_statistics
from data_pipeline.captions.step import Captioned
from data_pipeline.closer import CloserJob
from data_pipeline.cut import CutJob, drop_cut_notes, write_media_table
from data_pipeline.dataset import MANIFEST, Curated, build_manifest, code_version, drop_stale, files_stand
from data_pipeline.duplicates import DECIDING
from data_pipeline.duplicates.embeddings import fingerprints as embedding_fingerprints
from data_pipeline.duplicates.step import drop_duplicates
from data_pipeline.encode import EncodeJob, encode_fingerprint
from data_pipeline.failures import DAMAGED
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.ingest import Source
from data_pipeline.labels import names as labels
from data_pipeline.labels import step as label_step
from data_pipeline.labels.models import Span
from data_pipeline.measurements import Measurements, measurements
from data_pipeline.outcome import FAILED, Outcome, to_row
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.report import write_report
from data_pipeline.rules import Verdicts
from data_pipeline.shards import Prints, drop_staged, find_encoded, write_shards
from data_pipeline.tables import write_tables
from data_pipeline.texts import text_fingerprint
from groundwork.storage import Storage


class Clock:
    """Wall seconds per stage, of this run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        """What passed since the last lap belongs to `stage`."""
        now = time.monotonic()
        self.seconds[stage] = round(now - self._last, 3)
        self._last = now


@dataclass(frozen=True)
class Run:
    """One run: settings, sources, the models used, and the fingerprints of the stages' code and settings."""

    recipe: CurateRecipe
    out: Storage
    sources: Sequence[Source]
    models: Mapping[str, Any]
    code: Mapping[str, str]
    clock: Clock = field(default_factory=Clock)

    @property
    def measurements(self) -> Measurements:
        """What the videos' measurements are kept in."""
        return measurements(self.out, self.recipe, fingerprint=self.code["analyse"])

    @property
    def assessed(self) -> Assessed:
        """What the videos' clips are kept in."""
        return Assessed(self.out, self.code["assess"])

    @property
    def closer(self) -> dict[str, str]:
        """Fingerprints of the signals that take a closer look."""
        return {signal: self.code[f"{closer.STAGE}.{signal}"] for signal in self.recipe.signals.closer}

    @property
    def prints(self) -> Prints:
        """Fingerprints of latents and of text embeddings."""
        return Prints(encode=self.code["encode"], text=self.code["embed"])

    @property
    def key(self) -> str:
        """Equal for runs that must give equal datasets."""
        settings = self.recipe.model_dump(mode="json", exclude={"workers"})
        order = list(self.recipe.rules)  # it decides, and JSON with sorted keys hides it
        named = [(one.uri, one.video_id, one.licence, one.metadata, one.reason, one.detail) for one in self.sources]
        return short_hash(settings, order, self.code, named)


def code_fingerprints(recipe: CurateRecipe, *, models: Mapping[str, Any]) -> dict[str, str]:
    """One per stage; `models` are those the latents come from."""
    deciding = (assessed, closer, dataset, label_step, look_order, rules, tables, *DECIDING)
    analysed = analysis_fingerprint(recipe.shots.neural)
    return {
        "analyse": analysed,
        "assess": assess_fingerprint(recipe, measurements=analysed),
        "decide": stage_fingerprint(deciding, None),
        **embedding_fingerprints(recipe.duplicates),
        **{f"{closer.STAGE}.{signal}": key for signal, key in closer.fingerprints(recipe.signals).items()},
        **captioning.fingerprints(recipe.captions),
        **label_step.fingerprints(recipe),
        "encode": encode_fingerprint(recipe.variant, recipe.encode, models=models),
        "embed": text_fingerprint(recipe.variant, recipe.encode, models=models),
    }


def finished(run: Run) -> dict[str, Any] | None:
    """The manifest of the dataset if it is just what this run would make; None if there is something to do."""
    if not run.out.exists(MANIFEST):
        return None
    manifest: dict[str, Any] = run.out.read_json(MANIFEST)
    same = manifest.get("run_key") == run.key and manifest.get("complete") and not manifest.get("retry")
    return manifest if same and files_stand(run.out, manifest) else None


def summary(run: Run, manifest: Mapping[str, Any], *, already_done: bool) -> dict[str, Any]:
    """What `curate run --json` prints."""
    names = ("dataset_hash", "videos", "clips", "hours", "seconds")
    return {"dataset": run.out.uri, "already_done": already_done, **{name: manifest[name] for name in names}}


def gather(run: Run, failed: Mapping[str, Outcome]) -> Curated:
    """The clips of every readable source as columns, none of them decided yet; `failed`: by video_id."""
    videos = [s.video_id for s in run.sources if not s.duplicate_of and s.video_id not in failed]
    keep_damaged = run.recipe.decode.damaged == "keep"
    found, facts = read_clips(run.assessed, videos, damaged=keep_damaged)
    damaged = {video_id: known.damage for video_id, known in facts.items() if known.damage and not keep_damaged}
    left_out = {video_id: Outcome(video_id, FAILED, DAMAGED, detail) for video_id, detail in damaged.items()}
    facts = {video_id: known for video_id, known in facts.items() if video_id not in left_out}
    return Curated(run.sources, facts, {**failed, **left_out}, found, Verdicts.undecided(len(found)))


def with_looks(run: Run, curated: Curated, failed: Mapping[str, Outcome]) -> Curated:
    """With what the closer looks gave (`failed`: by clip_id)."""
    looked = closer.looks(run.out, curated.clips, run.recipe, keys=run.closer, failed=failed)
    return replace(curated, looked=looked, failed_looks=failed)


def with_labels(run: Run, curated: Curated, failed: Mapping[str, Outcome]) -> Curated:
    """With the six labels (`failed`: clips that their model could not look at)."""
    key = run.code.get(labels.STAGE, "")
    labelled = label_step.labels(run.out, curated.clips, curated.scores, run.recipe, failed=failed, key=key)
    return replace(curated, labelled=labelled, failed_looks={**curated.failed_looks, **failed})


def decide(run: Run, curated: Curated) -> Curated:
    """Every clip kept or rejected, in one pass over the columns: by the rules, then one clip of each group of copies,
    and no more clips than the recipe asks for."""
    clips, recipe = curated.clips, run.recipe
    verdicts = rules.judge(curated.scores, recipe.rules, shortest_seconds=shortest_seconds(recipe))
    bits = {
        source.video_id: 8 * source.bytes / max(curated.facts[source.video_id].header.duration_seconds, 1e-3)
        for source in run.sources
        if source.video_id in curated.facts
    }
    verdicts, copies = drop_duplicates(clips, verdicts, run.assessed, recipe.duplicates, bits_per_second=bits)
    over = rules.over_limit(clips.clip_ids, verdicts.kept, max_clips=recipe.clips.max_clips)
    verdicts = verdicts.reject(over, rules.OVER_LIMIT)
    return replace(curated, verdicts=verdicts, duplicates=copies)


def encode_jobs(
    kept: ClipTable, captioned: Captioned, recipe: CurateRecipe, *, without: Collection[str] = frozenset()
) -> dict[str, EncodeJob]:
    """What is to be encoded, by clip_id: the kept clips with a caption, but those `without`; of several captioners each
    one's text, in the recipe's order."""
    sizes = {bucket.folder: bucket for bucket in recipe.buckets}
    texts = captioned.texts()
    return {
        row["clip_id"]: EncodeJob(
            clip_id=row["clip_id"],
            start_seconds=row["start_seconds"],
            fps=recipe.clips.fps,
            bucket=sizes[row[BUCKET]],
            captions=texts[row["clip_id"]],
        )
        for row in kept.rows.select(["clip_id", "start_seconds", BUCKET]).to_pylist()
        if row["clip_id"] in texts and row["clip_id"] not in without
    }


def clip_rows(
    jobs: Sequence[CutJob | CloserJob | Span], video_of: Mapping[str, Source], *, clips_per_row: int
) -> list[dict[str, str]]:
    """Rows for the workers that look, label and cut: jobs grouped by video, at most `clips_per_row` to a row."""
    by_video: dict[str, list[CutJob | CloserJob | Span]] = {}
    for job in jobs:
        by_video.setdefault(video_of[job.clip_id].uri, []).append(job)
    rows = []
    for members in by_video.values():
        source = video_of[members[0].clip_id]
        for first in range(0, len(members), clips_per_row):
            chosen = [_plain(job) for job in members[first : first + clips_per_row]]
            rows.append(to_row({"folder": source.folder, "name": source.name, "jobs": chosen}))
    return rows


def _plain(job: CutJob | CloserJob | Span) -> dict[str, Any]:
    return {name: value.model_dump() if isinstance(value, Bucket) else value for name, value in asdict(job).items()}


def publish(run: Run, curated: Curated, jobs: Mapping[str, EncodeJob], cuts: Mapping[str, CutJob]) -> dict[str, Any]:
    """Write shards, tables, report, card and, last, the manifest: only then is the dataset complete."""
    out, recipe = run.out, run.recipe
    members = [job for job in jobs.values() if job.clip_id not in curated.failed_clips]
    found = find_encoded(out, members, run.prints)
    shards, texts = write_shards(out, members, found, run.prints, shard_bytes=recipe.encode.shard_bytes)
    paths = [
        *write_tables(out, curated, recipe, assessed=run.assessed, closer=run.closer),
        *(shard.path for shard in shards),
        *texts,
    ]
    cut = write_media_table(out, {key: job for key, job in cuts.items() if key not in curated.failed_clips})
    drop_stale(out, [*paths, *cut])
    run.clock.lap("publish")
    failures = (curated.failed_videos, curated.failed_clips, curated.failed_looks, curated.captioned.missed)
    manifest = {
        **build_manifest(out, curated, recipe, paths=paths, shards=shards, known=cut),
        "code": {"version": code_version(), **run.code},
        "models": run.models,
        "look_order": look_order.read_order(out, run.closer, recipe.rules),
        "captions": caption_statistics(out, curated, recipe.captions),
        "run_key": run.key,
        "retry": sum(not outcome.lasting for failed in failures for outcome in failed.values()),
        "seconds": run.clock.seconds,
    }
    write_report(out.uri, manifest=manifest)
    out.write_json(MANIFEST, manifest)
    drop_staged(out)
    run.assessed.drop_others()
    drop_cut_notes(out)
    return manifest
