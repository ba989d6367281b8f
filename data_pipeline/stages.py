"""The heavy steps as Ray Data stages: pools of processes that grow and shrink, one row of work at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.data import ActorPoolStrategy

from data_pipeline.assessed import ClipTable
from data_pipeline.captions.kept import kept_clips
from data_pipeline.captions.pipeline import Width
from data_pipeline.captions.pipeline import stream as caption_stream
from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.captions.stage import Row, num_clips
from data_pipeline.captions.step import Captioned, caption_clips
from data_pipeline.closer import CloserJob, closer_jobs, settle_order
from data_pipeline.cut import CutJob, begin_cutting
from data_pipeline.dataset import Curated
from data_pipeline.encode import EncodeJob
from data_pipeline.encode_workers import CLIPS_PER_ROW, film_rows, text_rows
from data_pipeline.failures import CRASHED
from data_pipeline.ingest import Source
from data_pipeline.labels.models import Span
from data_pipeline.labels.step import label_jobs
from data_pipeline.measurements import MeasureJob, failed_videos, further_parts
from data_pipeline.outcome import ABORTED, FAILED, Outcome, to_row
from data_pipeline.resources import ANALYSE, CLOSER, CUT, EMBED, ENCODE, Stage, labelling
from data_pipeline.rules import Columns
from data_pipeline.shards import find_encoded
from data_pipeline.steps import Run, clip_rows
from data_pipeline.texts import TEXTS_PER_ROW, distinct_texts
from groundwork.errors import RunError, StorageError
from groundwork.ray_session import data_context, ray_session, room_for
from groundwork.telemetry import Progress, get_logger

_CLIPS_PER_ROW = 8  # clips of one video that a worker takes per row: the file is fetched and opened for all of them
_STUCK_SECONDS = 3600.0  # one long film may take this long without any row finishing


@dataclass(frozen=True)
class Stages:
    """The heavy stages. Each finds what is missing on storage and computes only that."""

    run: Run
    connect: Callable[[], None]

    def analyse(self) -> dict[str, Outcome]:
        """Measure every video and find its clips, as far as that is not done yet; returns the failed ones by video_id.

        The first part of a long video tells how many there are; the others follow in a second round.
        """
        kept = self.run.measurements
        unique = {source.video_id: source for source in self.run.sources if not source.duplicate_of}
        absent = {s.video_id: Outcome(s.video_id, FAILED, s.reason, s.detail) for s in unique.values() if s.reason}
        there = self.run.assessed.standing()
        failed, jobs = kept.standing((s for key, s in unique.items() if key not in absent), assessed=there)
        arguments = {
            "out": kept.out.uri,
            "fingerprint": kept.fingerprint,
            "assessed": self.run.assessed.key,
            "recipe": self.run.recipe.model_dump(mode="json"),
        }
        asked = list(jobs)
        done = len(unique) - len({job.video_id for job in jobs})
        with _progress("analyse", total=done + len(jobs), done=done, unit="videos") as progress:
            found = {outcome.key: outcome for outcome in _follow(progress, self._rounds(asked, arguments, progress))}
        outcomes = {job.key: _crash(job.key) for job in asked} | found
        return absent | failed | failed_videos(asked, outcomes)

    def _rounds(self, asked: list[MeasureJob], arguments: Mapping[str, Any], progress: Progress) -> Iterator[Outcome]:
        """The outcomes of the jobs, and of further parts that the first ones tell of, which are added to `asked`."""
        jobs = list(asked)
        while jobs:
            told: dict[str, Outcome] = {}
            for outcome in self._stream(ANALYSE, [to_row(asdict(job)) for job in jobs], arguments):
                told[outcome.key] = outcome
                yield outcome
            jobs = further_parts(jobs, told)
            asked += jobs
            progress.add_total(len(jobs))

    def look_closer(self, clips: ClipTable) -> dict[str, Outcome]:
        """Measure what takes a closer look, on clips that no rule rejects before; returns the failed by clip_id."""
        out, recipe, keys = self.run.out, self.run.recipe, self.run.closer
        ruling = {reason: rule.model_dump(mode="json") for reason, rule in recipe.rules.items()}
        arguments = {"out": out.uri, "settings": recipe.signals.model_dump(mode="json"), "ruling": ruling}
        failed: dict[str, Outcome] = {}
        while True:
            asked = closer_jobs(out, clips, recipe, keys=keys)
            if jobs := {clip_id: job for clip_id, job in asked.items() if clip_id not in failed}:
                failed |= self._by_clip(CLOSER, arguments, clips, jobs, standing=())
            # The first round was the sample's if an order follows from it; the other clips are the second.
            if not settle_order(out, clips, recipe, keys=keys):
                return failed

    def label(self, clips: ClipTable, scores: Columns) -> dict[str, Outcome]:
        """Let the recipe's model look at the clips that no rule rejects before the first one on a label; returns the
        failed by clip_id. `scores`: those of closer looks too."""
        settings = self.run.recipe.labels
        jobs = label_jobs(self.run.out, clips, scores, self.run.recipe)
        arguments = {"out": self.run.out.uri, "settings": settings.model_dump(mode="json")}
        stage, at_once = labelling(settings), settings.batch_clips
        return self._by_clip(stage, arguments, clips, jobs, standing=(), at_once=at_once) if jobs else {}

    def caption(self, curated: Curated) -> Captioned:
        """Caption the kept clips; models are asked for what is missing."""
        recipe, clips = self.run.recipe, kept_clips(curated)

        def ask(captioner: CaptionerSettings, rows: Sequence[Row], keys: Mapping[str, str]) -> Iterator[Outcome]:
            self.connect()
            total = sum(num_clips(row) for row in rows)
            width = Width(recipe.workers.cpus, stuck_seconds=_STUCK_SECONDS)
            asked = caption_stream(rows, captioner, out=self.run.out.uri, keys=keys, width=width)
            with _progress(f"captions {captioner.name}", total=total, done=0, unit="clips") as progress:
                for outcome in _follow(progress, asked):
                    if outcome.status == ABORTED:
                        hint = "What is done is kept: run the same command again to go on."
                        raise RunError(outcome.detail, hint)
                    yield outcome

        return caption_clips(self.run.out, recipe.captions, clips, ask)

    def cut(self, clips: ClipTable, jobs: Mapping[str, CutJob]) -> dict[str, Outcome]:
        """Cut every kept clip that has no file yet; returns the failed ones by clip_id. No jobs: nothing happens."""
        out, settings = self.run.out, self.run.recipe.media
        arguments = {"out": out.uri, "settings": settings.model_dump(mode="json")}
        standing = begin_cutting(out, jobs)
        outcomes = self._by_clip(CUT, arguments, clips, jobs, standing=standing) if jobs else {}
        return {key: replace(outcome, stage=CUT.name) for key, outcome in outcomes.items()}

    def encode(self, clips: ClipTable, jobs: Mapping[str, EncodeJob]) -> dict[str, Outcome]:
        """Embed every text and encode every kept clip that does not stand yet; returns the failed ones by clip_id."""
        found = find_encoded(self.run.out, jobs.values(), self.run.prints)
        texts = distinct_texts(jobs.values())
        missing = [text for key, text in texts.items() if key not in found.texts]
        rounds = (partial(text_rows, texts_per_row=size) for size in (TEXTS_PER_ROW, 1))
        lost = self._rounds_of(EMBED, self._encoding(EMBED), rounds, missing, total=len(texts), unit="texts")
        failed = {
            job.clip_id: replace(lost[text], key=job.clip_id, stage=EMBED.name)
            for job in jobs.values()
            for text in job.captions
            if text in lost
        }
        left = {clip_id: job for clip_id, job in jobs.items() if clip_id not in failed}
        return failed | self._by_clip(ENCODE, self._encoding(ENCODE), clips, left, standing=found.latents)

    def _encoding(self, stage: Stage) -> dict[str, Any]:
        """What the workers of encoding are told."""
        recipe = self.run.recipe
        return {
            "out": self.run.out.uri,
            "variant": recipe.variant,
            "settings": recipe.encode.model_dump(mode="json"),
            "fingerprint": self.run.code[stage.name],
            "device": "cuda" if recipe.workers.encode_gpus else "cpu",
        }

    def _by_clip(
        self,
        stage: Stage,
        arguments: Mapping[str, Any],
        clips: ClipTable,
        jobs: Mapping[str, EncodeJob] | Mapping[str, CutJob] | Mapping[str, CloserJob] | Mapping[str, Span],
        *,
        standing: Collection[str],
        at_once: int = _CLIPS_PER_ROW,
    ) -> dict[str, Outcome]:
        """One outcome per clip whose work does not stand yet; returns the failed ones by clip_id."""
        missing = [clip_id for clip_id in jobs if clip_id not in standing]
        videos = self._sources(clips, missing)
        make: Callable[..., list[dict[str, str]]] = film_rows if stage is ENCODE else clip_rows

        def rows(size: int, ids: Sequence[str]) -> list[dict[str, str]]:
            return make([jobs[clip_id] for clip_id in ids], videos, clips_per_row=size)

        rounds = (partial(rows, size) for size in (CLIPS_PER_ROW if stage is ENCODE else at_once, 1))
        return self._rounds_of(stage, arguments, rounds, missing, total=len(jobs), unit="clips")

    def _rounds_of(
        self,
        stage: Stage,
        arguments: Mapping[str, Any],
        rounds: Iterable[Callable[[Sequence[str]], list[dict[str, str]]]],
        keys: Sequence[str],
        *,
        total: int,
        unit: str,
    ) -> dict[str, Outcome]:
        """One outcome per key; returns the failed ones. Each round makes rows of work of the keys that are left."""
        missing = dict.fromkeys(keys)
        failed: dict[str, Outcome] = {}
        with _progress(stage.name, total=total, done=total - len(missing), unit=unit) as progress:
            # What vanished with a killed worker gets a second chance, alone, so that only the culprit is lost.
            for rows_of in rounds:
                for outcome in _follow(progress, self._stream(stage, rows_of(list(missing)), arguments)):
                    missing.pop(outcome.key, None)
                    if outcome.status == FAILED:
                        failed[outcome.key] = outcome
        return failed | {key: _crash(key) for key in missing}

    def _sources(self, clips: ClipTable, jobs: Collection[str]) -> dict[str, Source]:
        """The source of each clip that has a job."""
        by_id = {source.video_id: source for source in reversed(self.run.sources)}
        asked = clips.rows.filter(pc.is_in(clips.clip_ids, value_set=pa.array(list(jobs), pa.string())))
        names = asked.column("clip_id").to_pylist()
        return {name: by_id[video] for name, video in zip(names, asked.column("video_id").to_pylist(), strict=True)}

    def _stream(self, stage: Stage, rows: list[dict[str, str]], arguments: Mapping[str, Any]) -> Iterator[Outcome]:
        """One row per block through a pool of processes; outcomes as they come, in any order."""
        if not rows:
            return
        self.connect()
        pool = stage.pool(self.run.recipe.workers)
        most = min(pool.at_most, len(rows))
        least = min(pool.at_least, most)
        room = room_for(cpus=pool.cpus, gpus=pool.gpus, memory=pool.memory_bytes, least=least)
        with data_context(stuck_seconds=_STUCK_SECONDS):
            dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
            done = (dataset.flat_map if stage.many else dataset.map)(
                stage.worker,
                fn_constructor_kwargs=dict(arguments),
                # One row at a time: a process that dies takes no other row with it.
                compute=ActorPoolStrategy(
                    min_size=least, max_size=most, initial_size=min(most, room), max_tasks_in_flight_per_actor=1
                ),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
                memory=pool.memory_bytes or None,
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
def heavy_stages(run: Run, *, address: str | None) -> Iterator[Stages]:
    """The stages; Ray is joined or started when the first of them has work, and left at the end of the block."""
    with ExitStack() as stack:
        entered: list[bool] = []

        def connect() -> None:
            if not entered:
                stack.enter_context(ray_session(address))
                entered.append(True)

        yield Stages(run, connect)


def _follow(progress: Progress, outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes, each shown as it comes."""
    started, failed, film_hours = time.monotonic(), 0, 0.0
    for outcome in outcomes:
        failed += outcome.status == FAILED
        film_hours += outcome.film_seconds / 3600
        if film_hours:
            rate = 3600 * film_hours / max(1e-3, time.monotonic() - started)
            progress.update(failed=failed, film=f"{film_hours:.2f} h, {rate:.1f} h/h")
        else:
            progress.update(failed=failed)
        yield outcome


def _progress(label: str, *, total: int, done: int, unit: str) -> Progress:
    if done:
        get_logger("curate").info("%s: %d of %d %s are done already", label, done, total, unit)
    return Progress(label, total=total, unit=unit, initial=done)


def _crash(key: str) -> Outcome:
    return Outcome(key, FAILED, CRASHED, "the worker process died on this row, twice")
