"""Ray Serve's question "how many replicas?" becomes the pure function `scheduling.wanted_denoisers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from serving.scheduling import wanted_denoisers

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


class FollowTheWork:
    """Serve's custom policy for the denoisers. It runs in the Serve controller and only reads what replicas reported.

    Every replica reports the same `outstanding_steps` of the whole service, its own `step_seconds` and whether it is
    `busy`.
    """

    def __init__(self, *, clear_queue_seconds: float) -> None:
        self._clear_queue_seconds = clear_queue_seconds

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number within the configured bounds, and no state to keep."""
        reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        timed = [seconds for seconds in _values(reported, "step_seconds") if seconds > 0]
        wanted = wanted_denoisers(
            outstanding_steps=max(_values(reported, "outstanding_steps"), default=0.0),
            step_seconds=sum(timed) / len(timed) if timed else 0.0,
            clear_queue_seconds=self._clear_queue_seconds,
            busy=sum(round(busy) for busy in _values(reported, "busy")),
        )
        fewest, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wanted, fewest), most), {}


def _values(reported: Mapping[str, Mapping[Any, float]], name: str) -> Iterable[float]:
    return list(reported.get(name, {}).values())
