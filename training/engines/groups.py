"""Which workers hold the same, and which share what: the groups that an engine's settings make of all workers."""

from __future__ import annotations

from typing import cast

import torch.distributed as dist

from groundwork.errors import RecipeError
from training.recipe import EngineSettings, WorkerSettings


def check_counts(engine: EngineSettings, workers: WorkerSettings, *, heads: int) -> None:
    """As `check_workers`, for every number of workers that a run may come to have."""
    check_workers(engine, workers=workers.count, heads=heads)
    for count in range(workers.fewest, workers.count):
        try:
            check_workers(engine, workers=count, heads=heads)
        except RecipeError as error:
            raise RecipeError(
                f"workers.at_least is {workers.fewest}: a run may come to have any number of workers from there to "
                f"{workers.count}, and {count} of them do not fit. {error.message}",
                "Leave workers.at_least out, or engine.sequence_parallel and engine.replicas at 1.",
            ) from error


def check_workers(engine: EngineSettings, *, workers: int, heads: int) -> None:
    """Raises RecipeError that lists what is allowed where `workers` cannot be grouped as the recipe says."""
    if workers % engine.replicas:
        raise RecipeError(
            f"engine.replicas is {engine.replicas}: {workers} workers do not form as many equal groups.",
            f"Allowed with {workers} workers: {_listed(_divisors(workers))}.",
        )
    if heads % engine.sequence_parallel or workers % engine.sequence_parallel:
        allowed = [count for count in _divisors(workers) if heads % count == 0]
        raise RecipeError(
            f"engine.sequence_parallel is {engine.sequence_parallel}: it must divide the number of workers, {workers}, "
            f"and that of the denoiser's attention heads, {heads}.",
            f"Allowed with {workers} workers: {_listed(allowed)}. Of the heads alone: {_listed(_divisors(heads))}.",
        )


def sequence_group(count: int) -> dist.ProcessGroup | None:
    """The `count` neighbouring workers, this one among them, that share rows; None where each has its own.

    Every worker must call it.
    """
    if count == 1:
        return None
    group, _ = dist.new_subgroups(count)  # type: ignore[no-untyped-call]
    return cast(dist.ProcessGroup, group)


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
