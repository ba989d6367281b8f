"""Batches of clips through one captioner, on Ray: processes that decode ahead of processes that hold a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.data import ActorPoolStrategy

from data_pipeline.captions import models, routes
from data_pipeline.captions.settings import CaptionerSettings
from data_pipeline.captions.stage import AskModel, DecodeFrames, Row, outcomes_of
from data_pipeline.outcome import Outcome
from groundwork.ray_session import data_context, room_for

_BATCHES_AHEAD = 2
"""Batches that wait in each process with a model, so that it never waits for one."""
_AT_ONCE = 2
"""Batches that such a process is at: one is prepared or noted while the model works on the other."""


@dataclass(frozen=True)
class Width:
    """What each process reserves, and how long no batch may come out before the run is given up."""

    cpus: float
    stuck_seconds: float = 3600.0


def stream(
    rows: Sequence[Row], captioner: CaptionerSettings, *, out: str, keys: Mapping[str, str], width: Width
) -> Iterator[Outcome]:
    """Caption the batches, as `to_row` gives them; outcomes by clip_id as they come, in any order. Ray is connected.

    A batch whose process dies is tried once more, then its clips have no outcome. Raises RunError when the cluster has
    no room for one process of each kind.
    """
    parts = routes.parts_of(captioner)
    with data_context(stuck_seconds=width.stuck_seconds):
        batches = ray.data.from_items(list(rows), override_num_blocks=len(rows))
        settings = captioner.model_dump(mode="json")
        # Each part has a process, and one decodes: together they must find room, or all would wait for each other.
        room_for(cpus=width.cpus * (1 + len(parts)), gpus=captioner.gpus * len(parts), least=1)
        batches = batches.map(
            DecodeFrames,
            fn_constructor_kwargs={"captioner": settings},
            compute=_pool(captioner.decoders, len(rows), in_flight=1, at_once=1),
            **_each(width.cpus, gpus=0.0),
        )
        for part in parts:
            model = routes.settings_of(captioner, part)
            alone = models.from_one_process(model)
            gpus = 0.0 if alone else captioner.gpus
            device = "cuda" if gpus else "cpu"
            arguments = {"out": out, "captioner": settings, "part": part, "key": keys[part], "device": device}
            batches = batches.map(
                AskModel,
                fn_constructor_kwargs=arguments,
                compute=_pool(
                    1 if alone else captioner.workers, len(rows), in_flight=_BATCHES_AHEAD + _AT_ONCE, at_once=_AT_ONCE
                ),
                **_each(width.cpus, gpus=gpus),
            )
        for row in batches.iter_rows():
            yield from outcomes_of(row)


def _pool(most: int, rows: int, *, in_flight: int, at_once: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(
        min_size=1,
        max_size=max(1, min(most, rows)),
        max_tasks_in_flight_per_actor=in_flight,
        max_concurrent_calls_per_actor=at_once,
        enable_true_multi_threading=at_once > 1,
    )


def _each(cpus: float, *, gpus: float) -> dict[str, Any]:
    """What a process reserves; a batch that kills its process is tried once more, then given up."""
    return {"num_cpus": cpus, "num_gpus": gpus or None, "max_restarts": -1, "max_task_retries": 1}
