"""What a worker process does with one row: measure a video, encode some clips; faults become rows, not exceptions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from data_pipeline.analysis import Analysis
from data_pipeline.assess import assess
from data_pipeline.assessed import Assessed
from data_pipeline.failures import ERROR, TOO_MANY_FRAMES, UNREADABLE
from data_pipeline.measurements import MeasureJob, measurements
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome, to_row
from data_pipeline.recipe import CurateRecipe
from data_pipeline.sandbox import Refused, Sandbox
from groundwork.errors import StorageError
from groundwork.storage import open_storage


class AnalyseVideo:
    """Row of a MeasureJob → the measurements of that part on storage; once the video has all of them, its clips too
    (`assess`), so that they are read again only when other clips are asked for. An Outcome row comes back.

    Decoding goes on in a process of its own, which costs its start once; this one watches it, and assesses.
    """

    def __init__(
        self,
        *,
        out: str,
        fingerprint: str,
        assessed: str,
        recipe: dict[str, Any],
    ) -> None:
        self._recipe = CurateRecipe.model_validate(recipe)
        self._measurements = measurements(open_storage(out), self._recipe, fingerprint=fingerprint)
        self._assessed = Assessed(self._measurements.out, assessed)
        self._limits = self._recipe.limits
        self._sandbox = Sandbox(self._limits, neural=self._recipe.shots.neural)

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        job = MeasureJob(**json.loads(row["payload"]))
        try:
            outcome = self._measure(job)
            if outcome.status == FAILED:
                self._measurements.note_failure(outcome)
        except StorageError as error:
            outcome = Outcome(job.key, ABORTED, detail=str(error))
        return to_row(asdict(outcome))

    def _measure(self, job: MeasureJob) -> Outcome:
        if job.measured:
            return self._assess(job, self._measurements.read(job.video_id), Outcome(job.key, OK))
        num_parts, seconds = job.num_parts, 0.0
        whole: Analysis | None = None
        if not (num_parts and self._stands(job)):
            try:
                with open_storage(job.folder).local_path(job.name) as path:
                    answer = self._sandbox.analyse(path, split_seconds=self._measurements.split_seconds, part=job.part)
            except StorageError as error:
                return Outcome(job.video_id, FAILED, UNREADABLE, error.message)
            if isinstance(answer, Refused):
                return Outcome(job.video_id, FAILED, answer.reason, answer.detail.replace(str(path), job.name))
            num_parts = answer.num_parts
            whole = Analysis.from_table(answer.table)
            seconds = whole.seconds()
            self._measurements.write(job, whole, num_parts=num_parts)
        if num_parts > 1:
            whole = self._measurements.join_parts(job.video_id, num_parts)
            if whole is not None and whole.frames.num_rows > self._limits.max_frames:
                detail = f"{job.name}: holds more than {self._limits.max_frames} frames."
                return Outcome(job.video_id, FAILED, TOO_MANY_FRAMES, detail)
        done = Outcome(job.key, OK, num_parts=num_parts, film_seconds=seconds)
        return done if whole is None else self._assess(job, whole, done)

    def _assess(self, job: MeasureJob, analysis: Analysis, done: Outcome) -> Outcome:
        """Keep the clips of a video that is measured; `done` is the answer when that goes well."""
        try:
            table = assess(job.video_id, analysis, self._recipe)
        except Exception as error:  # the row boundary
            return Outcome(job.video_id, FAILED, ERROR, f"{type(error).__name__}: {error}")
        self._assessed.write(job.video_id, table, analysis)
        return done

    def _stands(self, job: MeasureJob) -> bool:
        path = self._measurements.part_path(job.video_id, job.part, job.num_parts)
        return self._measurements.out.exists(path)
