"""The store's tallies and the state of the queue in Prometheus' text format: the whole service, whoever is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serving.jobs.job import QueueFacts
from serving.jobs.ledger import BUCKETS

_COUNTERS = {
    "accepted": ("cogvideox_serving_jobs_accepted", "Jobs that were accepted.", "key"),
    "completed": ("cogvideox_serving_jobs_completed", "Jobs whose video was made.", "key"),
    "failed": ("cogvideox_serving_jobs_failed", "Jobs that failed.", "code"),
    "refused": ("cogvideox_serving_jobs_refused", "Requests that were not accepted.", "code"),
}
_HISTOGRAMS = {
    "wait_seconds": ("cogvideox_serving_wait_seconds", "From acceptance to the first denoiser."),
    "denoise_seconds": ("cogvideox_serving_denoise_seconds", "Denoising of one job."),
    "decode_seconds": ("cogvideox_serving_decode_seconds", "Decoding and encoding of one job."),
    "total_seconds": ("cogvideox_serving_total_seconds", "From acceptance to the finished file."),
}


def exposition(facts: QueueFacts, tallies: Sequence[tuple[str, str, float]]) -> bytes:
    """What `/metrics` answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Service(facts, tallies))
    return generate_latest(registry)


class _Service(Collector):
    def __init__(self, facts: QueueFacts, tallies: Sequence[tuple[str, str, float]]) -> None:
        self._facts = facts
        self._values: dict[str, dict[str, float]] = defaultdict(dict)
        for name, label, value in tallies:
            self._values[name][label] = value

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        for name, (metric, text, label) in _COUNTERS.items():
            counter = CounterMetricFamily(metric, text, labels=[label])
            for value_of, value in sorted(self._values[name].items()):
                counter.add_metric([value_of], value)
            yield counter
        for name, (metric, text) in _HISTOGRAMS.items():
            values, total, buckets = self._values[name], 0.0, []
            for bound in (*map(str, BUCKETS), "+Inf"):
                total += values.get(bound, 0.0)
                buckets.append((bound, total))
            yield HistogramMetricFamily(metric, text, buckets=buckets, sum_value=values.get("sum", 0.0))

    def _gauges(self) -> Iterator[Metric]:
        facts = self._facts
        for name, text, value in (
            ("jobs_queued", "Jobs that no worker has taken up yet.", facts.queued),
            ("jobs_in_progress", "Jobs that were begun and are not done.", facts.in_progress),
            ("jobs_held", "Jobs that a denoiser has at hand.", facts.held),
            ("outstanding_seconds", "Denoise-seconds that accepted jobs still need.", facts.outstanding_seconds),
            ("denoisers", "Denoisers that were heard of lately.", facts.workers),
        ):
            yield GaugeMetricFamily(f"cogvideox_serving_{name}", text, value=value)
