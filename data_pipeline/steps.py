"""The steps of a run that need no cluster: what stands already, what is decided, to be encoded, and published."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from data_pipeline import assess as assess_step
from data_pipeline import buckets, clips, closer, dataset, rules, shots
from data_pipeline.analysis import analysis_fingerprint
from data_pipeline.assess import AssessedClip, assess, limit
from data_pipeline.captions import measured
from data_pipeline.closer import CloserJob
from data_pipeline.cut import CutJob, drop_cut_notes, write_media_table
from data_pipeline.dataset import MANIFEST, Curated, build_manifest, code_version, drop_stale, files_stand, write_tables
from data_pipeline.duplicates import DECIDING
from data_pipeline.duplicates.embeddings import fingerprints as embedding_fingerprints
from data_pipeline.duplicates.step import drop_duplicates
from data_pipeline.encode import EncodeJob, encode_fingerprint
from data_pipeline.failures import DAMAGED
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.ingest import Source
from data_pipeline.measurements import Measurements, measurements
from data_pipeline.outcome import FAILED, Outcome, to_row
from data_pipeline.recipe import Bucket, CurateRecipe
from data_pipeline.report import write_report
from data_pipeline.shards import drop_staged, find_encoded, write_shards
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
    def closer(self) -> dict[str, str]:
        """Fingerprints of the signals that take a closer look."""
        return {signal: self.code[f"{closer.STAGE}.{signal}"] for signal in self.recipe.signals.closer}

    @property
    def key(self) -> str:
        """Equal for runs that must give equal datasets."""
        settings = self.recipe.model_dump(mode="json", exclude={"workers"})
        order = list(self.recipe.rules)  # it decides, and JSON with sorted keys hides it
        named = [(one.uri, one.video_id, one.licence, one.metadata, one.reason, one.detail) for one in self.sources]
        return short_hash(settings, order, self.code, named)


def code_fingerprints(recipe: CurateRecipe, *, models: Mapping[str, Any]) -> dict[str, str]:
    """One per stage; `models` are those the latents come from."""
    deciding = (assess_step, buckets, closer, measured, clips, dataset, rules, shots, *DECIDING)
    return {
        "analyse": analysis_fingerprint(recipe.shots.neural),
        "decide": stage_fingerprint(deciding, None),
        **embedding_fingerprints(recipe.duplicates),
        **{f"{closer.STAGE}.{signal}": key for signal, key in closer.fingerprints(recipe.signals).items()},
        "encode": encode_fingerprint(recipe.variant, models=models),
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


def decide(run: Run, failed: Mapping[str, Outcome]) -> Curated:
    """Clips, scores, decisions and captions of every readable source, from its stored measurements."""
    headers, damage, found = {}, {}, []
    failed = dict(failed)
    for source in run.sources:
        if source.duplicate_of or source.video_id in failed:
            continue
        analysis = run.measurements.read(source.video_id)
        detail = analysis.damage_detail()
        if detail and run.recipe.decode.damaged == "reject":
            failed[source.video_id] = Outcome(source.video_id, FAILED, DAMAGED, detail)
            continue
        if detail:
            damage[source.video_id] = detail
        headers[source.video_id] = analysis.header
        found += assess(source.video_id, analysis, run.recipe)
    return Curated(run.sources, headers, failed, found, {}, damage)


def conclude(run: Run, curated: Curated, looks: Mapping[str, Outcome]) -> Curated:
    """With what the closer looks gave (`looks`: those that failed), one clip of each group of copies, and no more
    clips than the recipe asks for."""
    found = closer.with_looks(run.out, curated.clips, run.recipe, keys=run.closer, failed=looks)
    bits = {
        source.video_id: 8 * source.bytes / max(curated.headers[source.video_id].duration_seconds, 1e-3)
        for source in run.sources
        if source.video_id in curated.headers
    }
    found, duplicates = drop_duplicates(run.out, found, run.recipe.duplicates, bits_per_second=bits)
    limited = limit(found, max_clips=run.recipe.clips.max_clips)
    return replace(curated, clips=limited, duplicates=duplicates, failed_looks=looks)


def encode_jobs(
    found: Iterable[AssessedClip], *, fps: float, without: Collection[str] = frozenset()
) -> dict[str, EncodeJob]:
    """What is to be encoded, by clip_id: the kept clips but those `without`."""
    return {
        item.clip.clip_id: EncodeJob(
            clip_id=item.clip.clip_id,
            start_seconds=item.clip.start_seconds,
            fps=fps,
            bucket=item.bucket,
            caption=item.caption.text,
        )
        for item in found
        if item.decision.kept
        and item.bucket is not None
        and item.caption is not None
        and item.clip.clip_id not in without
    }


def encode_rows(
    jobs: Sequence[EncodeJob | CutJob | CloserJob], video_of: Mapping[str, Source], *, clips_per_row: int
) -> list[dict[str, str]]:
    """Rows for the workers that look, cut and encode: jobs grouped by video, at most `clips_per_row` to a row."""
    by_video: dict[str, list[EncodeJob | CutJob | CloserJob]] = {}
    for job in jobs:
        by_video.setdefault(video_of[job.clip_id].uri, []).append(job)
    rows = []
    for members in by_video.values():
        source = video_of[members[0].clip_id]
        for first in range(0, len(members), clips_per_row):
            chosen = [_plain(job) for job in members[first : first + clips_per_row]]
            rows.append(to_row({"folder": source.folder, "name": source.name, "jobs": chosen}))
    return rows


def _plain(job: EncodeJob | CutJob | CloserJob) -> dict[str, Any]:
    return {name: value.model_dump() if isinstance(value, Bucket) else value for name, value in asdict(job).items()}


def publish(run: Run, curated: Curated, jobs: Mapping[str, EncodeJob], cuts: Mapping[str, CutJob]) -> dict[str, Any]:
    """Write shards, tables, report, card and, last, the manifest: only then is the dataset complete."""
    out, recipe, fingerprint = run.out, run.recipe, run.code["encode"]
    encoded = find_encoded(out, jobs.values(), fingerprint=fingerprint)
    members = [job for job in jobs.values() if job.clip_id not in curated.failed_clips]
    shards = write_shards(out, members, encoded, fingerprint=fingerprint, clips_per_shard=recipe.encode.clips_per_shard)
    paths = [
        *write_tables(out, curated, recipe, fingerprint=run.code["analyse"], closer=run.closer),
        *(shard.path for shard in shards),
    ]
    cut = write_media_table(out, {key: job for key, job in cuts.items() if key not in curated.failed_clips})
    drop_stale(out, [*paths, *cut])
    run.clock.lap("publish")
    failures = (curated.failed_videos, curated.failed_clips, curated.failed_looks)
    manifest = {
        **build_manifest(out, curated, recipe, paths=paths, shards=shards, known=cut),
        "code": {"version": code_version(), **run.code},
        "models": run.models,
        "run_key": run.key,
        "retry": sum(not outcome.lasting for failed in failures for outcome in failed.values()),
        "seconds": run.clock.seconds,
    }
    write_report(out.uri, manifest=manifest)
    out.write_json(MANIFEST, manifest)
    drop_staged(out)
    drop_cut_notes(out)
    return manifest
