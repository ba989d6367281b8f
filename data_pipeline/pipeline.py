"""Raw video becomes a dataset: the list of steps, and the two Ray Data stages that do the heavy ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy

from data_pipeline import neural_cuts
from data_pipeline.assess import AssessedClip, known_scores
from data_pipeline.closer import STAGE as CLOSER
from data_pipeline.closer import CloserJob, LookCloser, closer_jobs, require
from data_pipeline.cut import STAGE as CUT
from data_pipeline.cut import CutClips, CutJob, begin_cutting, cut_jobs
from data_pipeline.dataset import MANIFEST
from data_pipeline.encode import EncodeJob, models_used
from data_pipeline.failures import CRASHED
from data_pipeline.forget import without_forgotten
from data_pipeline.ingest import find_sources, identify
from data_pipeline.measurements import MeasureJob, failed_videos, further_parts
from data_pipeline.outcome import ABORTED, FAILED, Outcome, to_row
from data_pipeline.recipe import CurateRecipe
from data_pipeline.rules import check
from data_pipeline.shards import find_encoded
from data_pipeline.steps import (
    Run,
    code_fingerprints,
    conclude,
    decide,
    encode_jobs,
    encode_rows,
    finished,
    publish,
    summary,
)
from data_pipeline.workers import AnalyseVideo, EncodeClips
from groundwork.errors import StorageError
from groundwork.ray_session import data_context, ray_session, room_for
from groundwork.run_lock import only_run
from groundwork.storage import open_storage
from groundwork.telemetry import Progress, get_logger

_CLIPS_PER_ROW = 8  # clips of one video that a worker encodes per row: the file is fetched and opened for all of them
_STUCK_SECONDS = 3600.0  # one long film may take this long without any row finishing


def curate(recipe: CurateRecipe, *, inputs: Sequence[str], out: str, address: str | None = None) -> dict[str, Any]:
    """Curate the inputs into the dataset at `out` and return the summary; run again, it goes on or is done already.

    The dataset is what these inputs and this recipe give: new inputs are added, ones no longer named leave, a changed
    setting recomputes what hangs on it. Raises InputError (nothing to read), RecipeError, WeightsError, StorageError
    (unwritable or full), RunError (another run holds the dataset; no Ray at `address`).
    """
    check(recipe.rules, known=known_scores())
    require(recipe)
    neural_cuts.require(recipe.shots.neural)
    found = find_sources(inputs)
    storage = open_storage(out)
    with only_run(storage):
        models = models_used(recipe.variant, weights=recipe.encode.weights)
        code = code_fingerprints(recipe, models=models)
        sources = without_forgotten(identify(found, out=storage), storage)
        run = Run(recipe, storage, sources, models, code)
        manifest = finished(run)
        if manifest is not None:
            return summary(run, manifest, already_done=True)
        storage.delete(MANIFEST)
        run.clock.lap("ingest")
        with _stages(run, address=address) as stages:
            failed_videos = stages.analyse()
            run.clock.lap("analyse")
            curated = decide(run, failed_videos)
            run.clock.lap("decide")
            curated = conclude(run, curated, stages.look_closer(curated.clips))
            run.clock.lap("closer")
            cuts = cut_jobs(curated.clips, recipe.media, fps=recipe.clips.fps)
            failed_clips = stages.cut(curated.clips, cuts)
            run.clock.lap("cut")
            jobs = encode_jobs(curated.clips, fps=recipe.clips.fps, without=failed_clips)
            failed_clips |= stages.encode(curated.clips, jobs)
            run.clock.lap("encode")
        curated = replace(curated, failed_clips=failed_clips)
        return summary(run, publish(run, curated, jobs, cuts), already_done=False)


@dataclass(frozen=True)
class Stages:
    """The heavy stages. Each finds what is missing on storage and computes only that."""

    run: Run
    connect: Callable[[], None]

    def analyse(self) -> dict[str, Outcome]:
        """Measure every video that is not measured yet; returns the failed ones by video_id.

        The first part of a long video tells how many there are; the others follow in a second round.
        """
        kept = self.run.measurements
        unique = {source.video_id: source for source in self.run.sources if not source.duplicate_of}
        absent = {s.video_id: Outcome(s.video_id, FAILED, s.reason, s.detail) for s in unique.values() if s.reason}
        failed, jobs = kept.standing(source for video_id, source in unique.items() if video_id not in absent)
        arguments = {
            "out": kept.out.uri,
            "fingerprint": kept.fingerprint,
            "split_seconds": kept.split_seconds,
            "limits": dict(kept.limits),
            "neural": self.run.recipe.shots.neural.model_dump(mode="json"),
        }
        asked = list(jobs)
        done = len(unique) - len({job.video_id for job in jobs})
        with _progress("analyse", total=done + len(jobs), done=done, unit="videos") as progress:
            found = _follow(progress, self._rounds(asked, arguments, progress))
        outcomes = {job.key: _crash(job.key) for job in asked} | found
        return absent | failed | failed_videos(asked, outcomes)

    def _rounds(self, asked: list[MeasureJob], arguments: Mapping[str, Any], progress: Progress) -> Iterator[Outcome]:
        """The outcomes of the jobs, and of further parts that the first ones tell of, which are added to `asked`."""
        jobs = list(asked)
        while jobs:
            told: dict[str, Outcome] = {}
            for outcome in self._stream([to_row(asdict(job)) for job in jobs], AnalyseVideo, arguments):
                told[outcome.key] = outcome
                yield outcome
            jobs = further_parts(jobs, told)
            asked += jobs
            progress.add_total(len(jobs))

    def look_closer(self, clips: Sequence[AssessedClip]) -> dict[str, Outcome]:
        """Measure what takes a closer look, on clips that no rule rejects before; returns the failed by clip_id."""
        jobs = closer_jobs(self.run.out, clips, self.run.recipe, keys=self.run.closer)
        arguments = {"out": self.run.out.uri, "settings": self.run.recipe.signals.model_dump(mode="json")}
        return self._by_clip(LookCloser, arguments, clips, jobs, standing=()) if jobs else {}

    def cut(self, clips: Sequence[AssessedClip], jobs: Mapping[str, CutJob]) -> dict[str, Outcome]:
        """Cut every kept clip that has no file yet; returns the failed ones by clip_id. No jobs: nothing happens."""
        out, settings = self.run.out, self.run.recipe.media
        arguments = {"out": out.uri, "settings": settings.model_dump(mode="json")}
        standing = begin_cutting(out, jobs)
        outcomes = self._by_clip(CutClips, arguments, clips, jobs, standing=standing) if jobs else {}
        return {key: replace(outcome, stage=CUT) for key, outcome in outcomes.items()}

    def encode(self, clips: Sequence[AssessedClip], jobs: Mapping[str, EncodeJob]) -> dict[str, Outcome]:
        """Encode every kept clip that is not encoded yet; returns the failed ones by clip_id."""
        recipe, fingerprint = self.run.recipe, self.run.code["encode"]
        arguments = {
            "out": self.run.out.uri,
            "variant": recipe.variant,
            "weights": recipe.encode.weights,
            "fingerprint": fingerprint,
            "device": "cuda" if recipe.workers.encode_gpus else "cpu",
        }
        encoded = find_encoded(self.run.out, jobs.values(), fingerprint=fingerprint)
        return self._by_clip(EncodeClips, arguments, clips, jobs, standing=encoded)

    def _by_clip(
        self,
        worker: type,
        arguments: Mapping[str, Any],
        clips: Sequence[AssessedClip],
        jobs: Mapping[str, EncodeJob] | Mapping[str, CutJob] | Mapping[str, CloserJob],
        *,
        standing: Collection[str],
    ) -> dict[str, Outcome]:
        """One outcome per clip whose work does not stand yet; returns the failed ones by clip_id."""
        by_id = {source.video_id: source for source in reversed(self.run.sources)}
        video_of = {item.clip.clip_id: by_id[item.clip.video_id] for item in clips}
        missing = [job for clip_id, job in jobs.items() if clip_id not in standing]
        outcomes: dict[str, Outcome] = {}
        label = {CutClips: CUT, LookCloser: CLOSER, EncodeClips: "encode"}[worker]
        with _progress(label, total=len(jobs), done=len(jobs) - len(missing), unit="clips") as progress:
            # Clips that vanished with a killed worker get a second chance, alone, so that only the culprit is lost.
            for clips_per_row in (_CLIPS_PER_ROW, 1):
                rows = encode_rows(missing, video_of, clips_per_row=clips_per_row)
                outcomes |= _follow(progress, self._stream(rows, worker, arguments))
                missing = [job for job in missing if job.clip_id not in outcomes]
        return _failed({job.clip_id: _crash(job.clip_id) for job in missing} | outcomes)

    def _stream(self, rows: list[dict[str, str]], worker: type, arguments: Mapping[str, Any]) -> Iterator[Outcome]:
        """One row per block through a pool of `worker` processes; outcomes as they come, in any order."""
        if not rows:
            return
        self.connect()
        workers, encoding = self.run.recipe.workers, worker is EncodeClips
        by_clip = worker is not AnalyseVideo
        most = min(workers.encode if encoding else workers.analyse, len(rows))
        least = min(workers.at_least, most)
        gpus = workers.encode_gpus if encoding else 0.0
        room = room_for(cpus=workers.cpus, gpus=gpus, least=least)
        with data_context(stuck_seconds=_STUCK_SECONDS):
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = (dataset.flat_map if by_clip else dataset.map)(
                worker,
                fn_constructor_kwargs=dict(arguments),
                # One row at a time: a process that dies takes no other row with it.
                compute=ActorPoolStrategy(
                    min_size=least, max_size=most, initial_size=min(most, room), max_tasks_in_flight_per_actor=1
                ),
                num_cpus=workers.cpus,
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
def _stages(run: Run, *, address: str | None) -> Iterator[Stages]:
    """The stages; Ray is joined or started when the first of them has work, and left at the end of the block."""
    with ExitStack() as stack:
        entered: list[bool] = []

        def connect() -> None:
            if not entered:
                stack.enter_context(ray_session(address))
                entered.append(True)

        yield Stages(run, connect)


def _follow(progress: Progress, outcomes: Iterator[Outcome]) -> dict[str, Outcome]:
    found: dict[str, Outcome] = {}
    started, failed, film_hours = time.monotonic(), 0, 0.0
    for outcome in outcomes:
        found[outcome.key] = outcome
        failed += outcome.status == FAILED
        film_hours += outcome.film_seconds / 3600
        if film_hours:
            rate = 3600 * film_hours / max(1e-3, time.monotonic() - started)
            progress.update(failed=failed, film=f"{film_hours:.2f} h, {rate:.1f} h/h")
        else:
            progress.update(failed=failed)
    return found


def _failed(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    return {key: outcome for key, outcome in outcomes.items() if outcome.status == FAILED}


def _progress(label: str, *, total: int, done: int, unit: str) -> Progress:
    if done:
        get_logger("curate").info("%s: %d of %d %s are done already", label, done, total, unit)
    return Progress(label, total=total, unit=unit, initial=done)


def _crash(key: str) -> Outcome:
    return Outcome(key, FAILED, CRASHED, "the worker process died on this row, twice")
