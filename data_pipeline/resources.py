"""What each Ray stage runs and reserves: one line per stage, from which its pool of processes follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from data_pipeline import closer, cut
from data_pipeline.closer import LookCloser
from data_pipeline.cut import CutClips
from data_pipeline.encode_workers import EmbedTexts, EncodeClips
from data_pipeline.labels import names as labels
from data_pipeline.labels.settings import LabelSettings
from data_pipeline.labels.worker import LabelClips
from data_pipeline.recipe import WorkerSettings
from data_pipeline.workers import AnalyseVideo


@dataclass(frozen=True)
class Pool:
    """Between how many processes a stage grows and shrinks, and what each of them reserves; 0 of memory: no claim."""

    at_least: int
    at_most: int
    cpus: float
    gpus: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True)
class Stage:
    """A stage of the graph. `worker`: the class that Ray makes one of per process; `many`: it gives several rows per
    row."""

    name: str
    worker: type
    pool: Callable[[WorkerSettings], Pool]
    many: bool = True


def _reading(workers: WorkerSettings) -> Pool:
    return Pool(workers.at_least, workers.analyse, workers.cpus, memory_bytes=workers.memory_mib << 20)


def _encoding(workers: WorkerSettings) -> Pool:
    return replace(_reading(workers), at_most=workers.encode, gpus=workers.encode_gpus)


ANALYSE = Stage("analyse", AnalyseVideo, _reading, many=False)
CLOSER = Stage(closer.STAGE, LookCloser, _reading)
CUT = Stage(cut.STAGE, CutClips, _reading)


def labelling(settings: LabelSettings) -> Stage:
    """The stage of the model that gives labels, with the processes that its settings ask for."""

    def pool(workers: WorkerSettings) -> Pool:
        return replace(
            _reading(workers),
            at_least=min(workers.at_least, settings.workers),
            at_most=settings.workers,
            gpus=settings.gpus,
        )

    return Stage(labels.STAGE, LabelClips, pool)


EMBED = Stage("embed", EmbedTexts, _encoding)
ENCODE = Stage("encode", EncodeClips, _encoding)
