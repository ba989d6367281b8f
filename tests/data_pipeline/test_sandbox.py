"""The decoding process: whatever a file does to it costs that file alone, and the next one is measured as ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from data_pipeline.analysis import Analysis
from data_pipeline.recipe import LimitSettings
from data_pipeline.sandbox import Measured, Refused, Sandbox


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(LimitSettings())
    yield made
    made.close()


@pytest.fixture
def limited(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Sandbox]:
    """The shared sandbox with other limits."""

    def limit(**limits: float) -> Sandbox:
        monkeypatch.setattr(sandbox, "_limits", LimitSettings.model_validate(limits))
        return sandbox

    return limit


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A file that never answers."""
    os.mkfifo(tmp_path / "endless.mp4")
    return tmp_path / "endless.mp4"


def when_running(sandbox: Sandbox, act: Callable[[int], None]) -> None:
    """Do something to the decoding process once it has loaded its libraries."""

    def wait() -> None:
        process = psutil.Process(sandbox.pid)
        while process.num_threads() < 2 or process.memory_info().rss < 50 << 20:
            time.sleep(0.05)
        act(process.pid)

    threading.Thread(target=wait, daemon=True).start()


def test_films_are_measured_one_after_the_other_in_one_process(sandbox: Sandbox, footage: Path) -> None:
    first = sandbox.analyse(footage / "bunny.mp4", split_seconds=1.0)
    pid = sandbox.pid
    assert isinstance(first, Measured)
    assert first.num_parts == 1, "a single keyframe"
    assert isinstance(sandbox.analyse(footage / "gone.mp4"), Refused)
    second = sandbox.analyse(footage / "bunny.mp4")
    assert isinstance(second, Measured)
    assert Analysis.from_table(second.table).frames.num_rows == 132
    assert sandbox.pid == pid


def test_a_film_beyond_a_limit_is_refused_with_the_reason(limited: Callable[..., Sandbox], footage: Path) -> None:
    film = footage / "bunny.mp4"
    reasons = {
        "too_many_pixels": {"max_pixels": 1280 * 720 - 1},
        "too_many_frames": {"max_frames": 20},
        "timeout": {"cpu_seconds": 0.02, "cpu_seconds_per_minute": 0.0},
        "out_of_memory": {"memory_mib": 20},
    }
    answers = {reason: limited(**limits).analyse(film) for reason, limits in reasons.items()}
    assert {reason: isinstance(answer, Refused) and answer.reason for reason, answer in answers.items()} == {
        reason: reason for reason in reasons
    }


def test_a_file_that_does_not_answer_is_given_up(limited: Callable[..., Sandbox], endless: Path) -> None:
    answer = limited(idle_seconds=0.5).analyse(endless)
    assert answer == Refused("unreadable", "reading stands still for more than 0.5 s")


def test_a_crash_costs_one_film_and_the_next_finds_a_new_process(
    sandbox: Sandbox, endless: Path, footage: Path
) -> None:
    before = sandbox.pid
    sandbox.analyse(footage / "gone.mp4")
    when_running(sandbox, lambda pid: os.kill(pid, signal.SIGSEGV))
    assert sandbox.analyse(endless) == Refused("crashed", "the decoding process died: SIGSEGV")
    answer = sandbox.analyse(footage / "gone.mp4")
    assert isinstance(answer, Refused)
    assert answer.reason == "damaged"
    assert sandbox.pid != before


def test_the_process_ends_with_the_one_that_asked_for_it(endless: Path) -> None:
    orphaned = Sandbox(LimitSettings())
    assert orphaned._child is not None
    orphaned._child.send(
        {"path": str(endless), "part": 0, "split_seconds": 0.0, "max_pixels": 0, "max_frames": 0, "neural": {}}
    )
    orphaned._child.connection.close()
    assert orphaned._child.process.wait(timeout=60) == 0
