"""Which videos are measured already, and the parts that are left: jobs for the workers, from the files that stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.analysis import Analysis, join
from data_pipeline.failures import LASTING, LIMITED
from data_pipeline.ingest import Source
from data_pipeline.outcome import FAILED, OK, Outcome
from data_pipeline.recipe import CurateRecipe
from groundwork.storage import Storage


@dataclass(frozen=True)
class MeasureJob:
    """One part of one video. `num_parts` is 0 until its first part was opened; `measured`: the whole video is, and
    only its clips are to be assessed."""

    video_id: str
    folder: str
    name: str
    part: int = 0
    num_parts: int = 0
    measured: bool = False

    @property
    def key(self) -> str:
        """The video's id, for its later parts with their number."""
        return f"{self.video_id}/{self.part}" if self.part else self.video_id


@dataclass(frozen=True)
class Measurements:
    """The measurements of one stage fingerprint on storage; `split_seconds` tells parts of another length apart."""

    out: Storage
    fingerprint: str
    split_seconds: float
    limits: Mapping[str, Any]

    @property
    def folder(self) -> str:
        """All of them lie below it."""
        return f"work/analysis/{self.fingerprint}"

    def path(self, video_id: str) -> str:
        """Where the measurements of a whole video are kept."""
        return f"{self.folder}/{video_id}.parquet"

    def failure_path(self, video_id: str) -> str:
        """Where it is noted why a video cannot be measured."""
        return f"{self.folder}/{video_id}.failed.json"

    def part_path(self, video_id: str, part: int, num_parts: int) -> str:
        """Where a part waits for the others."""
        return f"{self._parts_folder(video_id)}/{part:05d}-of-{num_parts:05d}.parquet"

    def _parts_folder(self, video_id: str) -> str:
        return f"{self.folder}/parts/{video_id}/{self.split_seconds:g}"

    def read(self, video_id: str) -> Analysis:
        """The measurements of a whole video."""
        return Analysis.from_table(self.out.read_table(self.path(video_id)))

    def write(self, job: MeasureJob, analysis: Analysis, *, num_parts: int) -> None:
        """Keep the measurements of a video, or those of a part of it."""
        whole = num_parts == 1
        path = self.path(job.video_id) if whole else self.part_path(job.video_id, job.part, num_parts)
        self.out.write_table(path, analysis.to_table())

    def join_parts(self, video_id: str, num_parts: int) -> Analysis | None:
        """Make the parts one, once all of them stand; None before. Who comes first or last makes no difference."""
        paths = [self.part_path(video_id, part, num_parts) for part in range(num_parts)]
        if not set(paths) <= set(self.out.list(self._parts_folder(video_id))):
            return None
        whole = join([Analysis.from_table(self.out.read_table(path)) for path in paths])
        self.out.write_table(self.path(video_id), whole.to_table())
        self.out.delete_tree(f"{self.folder}/parts/{video_id}")
        return whole

    def note_failure(self, outcome: Outcome) -> None:
        """Remember a failure that would come again."""
        if outcome.reason in LASTING:
            self.out.write_json(self.failure_path(outcome.key), {**asdict(outcome), "limits": dict(self.limits)})

    def standing(
        self, sources: Iterable[Source], *, assessed: Collection[str] = ()
    ) -> tuple[dict[str, Outcome], list[MeasureJob]]:
        """The failures that stay, by video_id, and what is left: parts to be measured, and measured videos that are not
        among the `assessed`."""
        present = set(self.out.list(self.folder))
        parts: dict[str, set[str]] = defaultdict(set)
        for path in present:
            parts[path.rpartition("/")[0]].add(path)
        failed, jobs = {}, []
        for source in sources:
            noted = self.failure_path(source.video_id) in present
            outcome = self._failure(source.video_id) if noted else None
            if outcome is not None:
                failed[source.video_id] = outcome
            elif self.path(source.video_id) not in present:
                jobs += self._missing_parts(source, parts[self._parts_folder(source.video_id)])
            elif source.video_id not in assessed:
                jobs.append(MeasureJob(source.video_id, source.folder, source.name, measured=True))
        return failed, jobs

    def _failure(self, video_id: str) -> Outcome | None:
        """Why the video failed; None when it failed by limits that no longer hold."""
        noted = self.out.read_json(self.failure_path(video_id))
        limits = noted.pop("limits", None)
        return None if noted["reason"] in LIMITED and limits != self.limits else Outcome(**noted)

    def _missing_parts(self, source: Source, found: set[str]) -> list[MeasureJob]:
        first = MeasureJob(source.video_id, source.folder, source.name)
        if not found:
            return [first]
        num_parts = int(min(found).removesuffix(".parquet").rpartition("-")[2])
        missing = [part for part in range(num_parts) if self.part_path(source.video_id, part, num_parts) not in found]
        # All there but not joined: the last one is asked for again, and finds that it only has to join.
        return [_part_of(first, part, num_parts) for part in missing or [num_parts - 1]]


def measurements(out: Storage, recipe: CurateRecipe, *, fingerprint: str) -> Measurements:
    """Those that a recipe asks for."""
    return Measurements(out, fingerprint, recipe.decode.split_seconds, recipe.limits.model_dump(mode="json"))


def further_parts(jobs: Sequence[MeasureJob], outcomes: Mapping[str, Outcome]) -> list[MeasureJob]:
    """The other parts of videos whose first part has told how many there are."""
    return [
        _part_of(job, part, outcomes[job.key].num_parts)
        for job in jobs
        if not job.num_parts and job.key in outcomes and outcomes[job.key].status == OK
        for part in range(1, outcomes[job.key].num_parts)
    ]


def failed_videos(jobs: Iterable[MeasureJob], outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """By video_id, the failure of each video of which a part failed, the first one of its parts."""
    failed: dict[str, Outcome] = {}
    for job in sorted(jobs, key=lambda job: (job.video_id, job.part)):
        outcome = outcomes[job.key]
        if outcome.status == FAILED:
            first = Outcome(job.video_id, FAILED, outcome.reason, outcome.detail)
            failed.setdefault(job.video_id, first)
    return failed


def _part_of(job: MeasureJob, part: int, num_parts: int) -> MeasureJob:
    return MeasureJob(job.video_id, job.folder, job.name, part, num_parts)
