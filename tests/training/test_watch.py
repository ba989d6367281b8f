"""What steps show becomes few warnings that name what to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

from training.exchange import Said
from training.metrics import StepMetrics
from training.watch import WINDOW, Watch


def row(step: int, *, loss: float = 1.0, stage: str = "all", waiting: float = 0.0) -> StepMetrics:
    wavy = loss + 0.02 * math.sin(step)
    return StepMetrics(step, stage, wavy, 1e-3, 1.0, 2.0, 3, 100, 1e9, [], [], waiting_seconds=waiting)


def said(*computing: float) -> list[Said]:
    return [Said(computing=seconds) for seconds in computing]


def warnings(watch: Watch, rows: Sequence[StepMetrics], *computing: float) -> list[str]:
    return [text for one in rows for text in watch.add(one, said(*(computing or (1.0, 1.0))))]


def test_a_worker_that_is_slow_all_along_is_named_once_in_a_window() -> None:
    watch = Watch(["a", "b", "c"])
    found = warnings(watch, [row(step) for step in range(1, 2 * WINDOW + 1)], 1.0, 1.1, 1.7)
    assert len(found) == 2
    assert all("worker 2 on c is slow: 1.7 s" in text for text in found)


def test_one_hiccup_is_no_slow_worker() -> None:
    watch = Watch(["a", "b"])
    assert watch.add(row(1), said(1.0, 90.0)) == []
    assert warnings(watch, [row(step) for step in range(2, WINDOW + 1)]) == []


def test_steps_that_wait_for_clips_are_told_with_what_to_do() -> None:
    watch = Watch(["a", "b"])
    assert warnings(watch, [row(step, waiting=0.2) for step in range(WINDOW)]) == []
    (text,) = warnings(watch, [row(step, waiting=0.5) for step in range(WINDOW, 2 * WINDOW)])
    assert text.startswith("20% of the last 50 steps")
    assert "workers.cpus" in text


def test_a_leaping_loss_is_named_with_the_step_that_explain_takes() -> None:
    watch = Watch(["a", "b"], [row(step) for step in range(1, 31)])  # what an earlier start saw
    (text,) = warnings(watch, [row(31), row(32, loss=1.5), row(33, loss=1.5)])
    assert "step 32: a loss of 1.5" in text
    assert "train explain --step 32" in text


def test_a_new_stage_may_have_other_losses() -> None:
    watch = Watch(["a", "b"], [row(step) for step in range(1, 41)])
    assert warnings(watch, [row(41, loss=3.0, stage="larger")]) == []
