"""Raw video becomes a dataset: the list of steps, and the two Ray Data stages that do the heavy ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

import data_pipeline.assess
import data_pipeline.buckets
import data_pipeline.captions.measured
import data_pipeline.clips
import data_pipeline.dataset
import data_pipeline.rules
from data_pipeline.analysis import Analysis, analysis_fingerprint
from data_pipeline.assess import AssessedClip, assess, limit
from data_pipeline.dataset import MANIFEST, Curated, build_manifest, drop_stale, files_stand, write_tables
from data_pipeline.encode import EncodeJob, encode_fingerprint
from data_pipeline.fingerprint import short_hash, stage_fingerprint
from data_pipeline.ingest import Source, find_sources, identify
from data_pipeline.lock import only_run
from data_pipeline.recipe import CurateRecipe
from data_pipeline.report import write_report
from data_pipeline.shards import drop_staged, find_encoded, write_shards
from data_pipeline.workers import (
    ABORTED,
    CRASHED,
    DAMAGED,
    FAILED,
    AnalyseVideo,
    EncodeClips,
    Outcome,
    analysis_path,
    failure_path,
    to_row,
)
from groundwork.errors import RunError, StorageError
from groundwork.ray_session import ray_session
from groundwork.storage import Storage, open_storage
from groundwork.telemetry import Progress, get_logger

_CLIPS_PER_ROW = 8  # clips of one video that a worker encodes per row: the file is fetched and opened for all of them
_STUCK_SECONDS = 3600.0  # one long film may take this long without any row finishing
_DECIDING_CODE = (
    data_pipeline.assess,
    data_pipeline.buckets,
    data_pipeline.captions.measured,
    data_pipeline.clips,
    data_pipeline.dataset,
    data_pipeline.rules,
)


def curate(recipe: CurateRecipe, *, inputs: Sequence[str], out: str, address: str | None = None) -> dict[str, Any]:
    """Curate the inputs into the dataset at `out` and return the summary; run again, it goes on or is done already.

    The dataset is what these inputs and this recipe give: new inputs are added, ones no longer named leave, a changed
    setting recomputes what hangs on it. Raises InputError (nothing to read), RecipeError, WeightsError, StorageError
    (unwritable or full), RunError (another run holds the dataset; no Ray at `address`).
    """
    found = find_sources(inputs)
    storage = open_storage(out)
    with only_run(storage):
        clock = _Clock()
        sources = identify(found, out=storage)
        code = {
            "analyse": analysis_fingerprint(recipe.shots),
            "decide": stage_fingerprint(_DECIDING_CODE, None),
            "encode": encode_fingerprint(recipe.variant, weights=recipe.encode.weights),
        }
        run_key = _run_key(recipe, sources, code)
        done = _finished(storage, run_key)
        if done is not None:
            return _summary(storage, done, already_done=True)
        storage.delete(MANIFEST)
        clock.lap("ingest")
        with ray_stages(recipe, storage, address=address) as stages:
            failed_videos = stages.analyse(sources, fingerprint=code["analyse"])
            clock.lap("analyse")
            curated = _assess(storage, recipe, sources, failed_videos, fingerprint=code["analyse"])
            clock.lap("assess")
            jobs = encode_jobs(curated.clips, recipe)
            failed_clips = stages.encode(sources, curated.clips, jobs, fingerprint=code["encode"])
            clock.lap("encode")
        return _publish(storage, recipe, _with_failures(curated, failed_clips), jobs, code, run_key, clock)


def encode_jobs(clips: Iterable[AssessedClip], recipe: CurateRecipe) -> dict[str, EncodeJob]:
    """What is to be encoded, by clip_id: the kept clips."""
    return {
        item.clip.clip_id: EncodeJob(
            clip_id=item.clip.clip_id,
            start_seconds=item.clip.start_seconds,
            fps=recipe.clips.fps,
            bucket=item.bucket,
            caption=item.caption.text,
        )
        for item in clips
        if item.decision.kept and item.bucket is not None and item.caption is not None
    }


def _run_key(recipe: CurateRecipe, sources: Sequence[Source], code: Mapping[str, str]) -> str:
    settings = recipe.model_dump(mode="json", exclude={"workers"})
    rules = list(recipe.rules)  # their order decides, and JSON with sorted keys hides it
    return short_hash(settings, rules, code, [(source.uri, source.video_id) for source in sources])


def _finished(storage: Storage, run_key: str) -> dict[str, Any] | None:
    if not storage.exists(MANIFEST):
        return None
    manifest: dict[str, Any] = storage.read_json(MANIFEST)
    same = manifest.get("run_key") == run_key and manifest.get("complete") and not manifest.get("retry")
    return manifest if same and files_stand(storage, manifest) else None


def _summary(storage: Storage, manifest: Mapping[str, Any], *, already_done: bool) -> dict[str, Any]:
    names = ("dataset_hash", "videos", "clips", "hours", "seconds")
    return {"dataset": storage.uri, "already_done": already_done, **{name: manifest[name] for name in names}}


def _assess(
    storage: Storage,
    recipe: CurateRecipe,
    sources: Sequence[Source],
    failed: Mapping[str, Outcome],
    *,
    fingerprint: str,
) -> Curated:
    headers, clips = {}, []
    for source in sources:
        if source.duplicate_of or source.video_id in failed:
            continue
        analysis = Analysis.from_table(storage.read_table(analysis_path(source.video_id, fingerprint)))
        headers[source.video_id] = analysis.header
        clips += assess(source.video_id, analysis, recipe)
    return Curated(sources, headers, failed, limit(clips, max_clips=recipe.clips.max_clips), {})


def _with_failures(curated: Curated, failed_clips: Mapping[str, Outcome]) -> Curated:
    return Curated(curated.sources, curated.headers, curated.failed_videos, curated.clips, failed_clips)


def _publish(
    storage: Storage,
    recipe: CurateRecipe,
    curated: Curated,
    jobs: Mapping[str, EncodeJob],
    code: Mapping[str, str],
    run_key: str,
    clock: _Clock,
) -> dict[str, Any]:
    """Write tables, shards, manifest, report and card; only then is the dataset complete."""
    encoded = find_encoded(storage, jobs.values(), fingerprint=code["encode"])
    members = [job for job in jobs.values() if job.clip_id not in curated.failed_clips]
    shards = write_shards(
        storage, members, encoded, fingerprint=code["encode"], clips_per_shard=recipe.encode.clips_per_shard
    )
    paths = [*write_tables(storage, curated, recipe, fingerprint=code["analyse"]), *(shard.path for shard in shards)]
    drop_stale(storage, paths)
    clock.lap("shards")
    outcomes = [*curated.failed_videos.values(), *curated.failed_clips.values()]
    manifest = build_manifest(
        storage,
        curated,
        recipe,
        paths=paths,
        shards=shards,
        seconds=clock.seconds,
        code=code,
        run_key=run_key,
        retry=sum(outcome.reason != DAMAGED for outcome in outcomes),
    )
    write_report(storage.uri, manifest=manifest)
    storage.write_json(MANIFEST, manifest)
    drop_staged(storage)
    return _summary(storage, manifest, already_done=False)


class _Clock:
    """Wall seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = now - self._last
        self._last = now


class Stages:
    """The two heavy stages. Each finds what is missing on storage and computes only that."""

    def __init__(self, recipe: CurateRecipe, out: Storage, *, connect: Callable[[], None]) -> None:
        self._recipe, self._out, self._connect = recipe, out, connect

    def analyse(self, sources: Sequence[Source], *, fingerprint: str) -> dict[str, Outcome]:
        """Measure every video that is not measured yet; returns the failed ones by video_id."""
        unique = {source.video_id: source for source in sources if not source.duplicate_of}
        present = set(self._out.list(f"work/analysis/{fingerprint}"))
        failed = {
            video_id: Outcome(**self._out.read_json(failure_path(video_id, fingerprint)))
            for video_id in unique
            if failure_path(video_id, fingerprint) in present
        }
        missing = [
            source
            for video_id, source in unique.items()
            if video_id not in failed and analysis_path(video_id, fingerprint) not in present
        ]
        rows = [to_row({"video_id": s.video_id, "folder": s.folder, "name": s.name}) for s in missing]
        settings = self._recipe.shots.model_dump(mode="json")
        arguments = {"out": self._out.uri, "settings": settings, "fingerprint": fingerprint}
        workers = self._recipe.workers.analyse
        outcomes: dict[str, Outcome] = {}
        with _progress("analyse", total=len(unique), done=len(unique) - len(missing), unit="videos") as progress:
            for outcome in self._run(rows, AnalyseVideo, arguments, workers=workers, gpus=0.0, fan_out=False):
                outcomes[outcome.key] = outcome
                progress.update(failed=sum(o.status == FAILED for o in outcomes.values()))
        for source in missing:
            outcomes.setdefault(source.video_id, _crash(source.video_id))
        return failed | {key: outcome for key, outcome in outcomes.items() if outcome.status == FAILED}

    def encode(
        self,
        sources: Sequence[Source],
        clips: Sequence[AssessedClip],
        jobs: Mapping[str, EncodeJob],
        *,
        fingerprint: str,
    ) -> dict[str, Outcome]:
        """Encode every kept clip that is not encoded yet; returns the failed ones by clip_id."""
        by_id = {source.video_id: source for source in reversed(sources)}
        video_of = {item.clip.clip_id: by_id[item.clip.video_id] for item in clips}
        encoded = find_encoded(self._out, jobs.values(), fingerprint=fingerprint)
        outcomes: dict[str, Outcome] = {}
        missing = [job for clip_id, job in jobs.items() if clip_id not in encoded]
        with _progress("encode", total=len(jobs), done=len(jobs) - len(missing), unit="clips") as progress:
            # Clips that vanished with a killed worker get a second chance, alone, so that only the culprit is lost.
            for clips_per_row in (_CLIPS_PER_ROW, 1):
                rows = encode_rows(missing, video_of, clips_per_row=clips_per_row)
                for outcome in self._encode_rows(rows, fingerprint=fingerprint):
                    outcomes[outcome.key] = outcome
                    progress.update(failed=sum(o.status == FAILED for o in outcomes.values()))
                missing = [job for job in missing if job.clip_id not in outcomes]
        for job in missing:
            outcomes[job.clip_id] = _crash(job.clip_id)
        return {key: outcome for key, outcome in outcomes.items() if outcome.status == FAILED}

    def _encode_rows(self, rows: list[dict[str, str]], *, fingerprint: str) -> Iterator[Outcome]:
        recipe = self._recipe
        arguments = {
            "out": self._out.uri,
            "variant": recipe.variant,
            "weights": recipe.encode.weights,
            "fingerprint": fingerprint,
            "device": "cuda" if recipe.workers.encode_gpus else "cpu",
        }
        workers, gpus = recipe.workers.encode, recipe.workers.encode_gpus
        return self._run(rows, EncodeClips, arguments, workers=workers, gpus=gpus, fan_out=True)

    def _run(
        self, rows: list[dict[str, str]], worker: type, arguments: dict[str, Any], *, workers: int, gpus: float, fan_out: bool
    ) -> Iterator[Outcome]:
        if not rows:
            return
        self._connect()
        size, cpus = min(workers, len(rows)), self._recipe.workers.cpus
        _check_resources(size * cpus, size * gpus)
        with _data_context():
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            step = dataset.flat_map if fan_out else dataset.map
            done = step(
                worker,
                fn_constructor_kwargs=arguments,
                compute=ActorPoolStrategy(size=size),
                num_cpus=cpus,
                num_gpus=gpus or None,
                # A row that kills its process is tried once more; then its block, this one row, is given up.
                max_restarts=-1,
                max_task_retries=1,
            )
            for row in done.iter_rows():
                outcome = Outcome(**json.loads(row["payload"]))
                if outcome.status == ABORTED:
                    raise StorageError(outcome.detail, "What is done is kept: run the same command again to go on.")
                yield outcome


@contextmanager
def ray_stages(recipe: CurateRecipe, out: Storage, *, address: str | None) -> Iterator[Stages]:
    """The stages; Ray is joined or started when the first of them has work, and left at the end of the block."""
    session = ray_session(address)
    entered: list[bool] = []

    def connect() -> None:
        if not entered:
            session.__enter__()
            entered.append(True)

    try:
        yield Stages(recipe, out, connect=connect)
    finally:
        if entered:
            session.__exit__(None, None, None)


def encode_rows(
    jobs: Sequence[EncodeJob], video_of: Mapping[str, Source], *, clips_per_row: int
) -> list[dict[str, str]]:
    """Jobs grouped by video, at most `clips_per_row` to a row."""
    by_video: dict[str, list[EncodeJob]] = {}
    for job in jobs:
        by_video.setdefault(video_of[job.clip_id].uri, []).append(job)
    rows = []
    for members in by_video.values():
        source = video_of[members[0].clip_id]
        for first in range(0, len(members), clips_per_row):
            chosen = [
                {**asdict(job), "bucket": job.bucket.model_dump()} for job in members[first : first + clips_per_row]
            ]
            rows.append(to_row({"folder": source.folder, "name": source.name, "jobs": chosen}))
    return rows


def _progress(label: str, *, total: int, done: int, unit: str) -> Progress:
    if done:
        get_logger("curate").info("%s: %d of %d %s are done already", label, done, total, unit)
    return Progress(label, total=total, unit=unit, initial=done)


def _crash(key: str) -> Outcome:
    return Outcome(key, FAILED, CRASHED, "the worker process died on this row, twice")


def _check_resources(cpus: float, gpus: float) -> None:
    """Ray waits for ever for what a cluster does not have, so it is looked up first."""
    have = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > have.get(name, 0.0):
            raise RunError(
                f"The workers ask for {wanted:g} {name}, and Ray has {have.get(name, 0.0):g}.",
                "Lower --workers.analyse, --workers.encode or --workers.cpus.",
            )


@contextmanager
def _data_context() -> Iterator[None]:
    """Settings that Ray Data copies into a dataset when it is created."""
    context = DataContext.get_current()
    names = {
        "max_errored_blocks": -1,
        "execution_no_progress_timeout_s": _STUCK_SECONDS,
        "enable_progress_bars": False,
        "use_datasource_v2": False,
    }
    before = {name: getattr(context, name) for name in names}
    for name, value in names.items():
        setattr(context, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
