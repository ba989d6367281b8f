"""Ray Serve's question "how many replicas?" is answered by the pure function `scheduling.wanted_denoisers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext


class FollowTheWork:
    """Serve's custom policy for the denoisers. It runs in the Serve controller and only reads what replicas reported:
    each one's `wanted`, by `scheduling.wanted_denoisers` over the whole service's backlog.
    """

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """The wanted number within the configured bounds, and no state to keep."""
        reported: Mapping[str, Mapping[Any, float]] = context.aggregated_metrics or {}
        wanted = round(max(_values(reported, "wanted"), default=0.0))
        if not context.current_num_replicas and context.total_queued_requests:
            wanted = max(wanted, 1)  # with no denoiser there is nobody to report, but the store calls for one
        fewest, most = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
        return min(max(wanted, fewest), most), {}


def _values(reported: Mapping[str, Mapping[Any, float]], name: str) -> Iterable[float]:
    return list(reported.get(name, {}).values())
