"""A decode pass becomes columns: every signal's accumulator fed with one picture after the other, its CPU time kept."""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

from data_pipeline.signals import INTEGER_COLUMNS, SIGNALS, accumulators
from data_pipeline.signals.picture import Picture

PLANES = "planes"
"""Where the time of making the pictures that all signals share is counted."""


class Measuring:
    """One pass over one video. `columns` holds a list of values per name, `cpu_seconds` what each signal took."""

    def __init__(self) -> None:
        self._accumulators = accumulators()
        self.columns: dict[str, list[Any]] = {
            column: [] for accumulator in self._accumulators.values() for column in accumulator.columns
        }
        self.cpu_seconds = dict.fromkeys((PLANES, *SIGNALS), 0.0)

    def update(self, picture: Picture) -> None:
        """Measure one more picture."""
        started = time.thread_time()
        picture.make_planes()
        started = self._charge(PLANES, since=started)
        for name, accumulator in self._accumulators.items():
            for column, value in accumulator.update(picture).items():
                self.columns[column].append(value)
            started = self._charge(name, since=started)

    def _charge(self, name: str, *, since: float) -> float:
        now = time.thread_time()
        self.cpu_seconds[name] += now - since
        return now

    def arrays(self) -> dict[str, pa.Array]:
        """The columns as Arrow arrays, a value per picture."""
        return {
            name: pa.array(values, pa.uint64() if name in INTEGER_COLUMNS else pa.float32())
            for name, values in self.columns.items()
        }
