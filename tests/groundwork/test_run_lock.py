"""The lock: one run at a time; what the dead leave behind gives way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundwork.errors import RunError
from groundwork.run_lock import LOCK_FILE, only_run
from groundwork.storage import open_storage


def test_a_second_run_is_told_who_holds_the_dataset(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    with (
        only_run(out),
        pytest.raises(RunError, match=rf"Another run is writing .*process {os.getpid()}"),
        only_run(out),
    ):
        pass
    assert not out.exists(LOCK_FILE)


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    with pytest.raises(ValueError, match="inside"), only_run(out):
        raise ValueError("inside")
    with only_run(out):
        pass


def test_the_lock_of_a_killed_process_gives_way(tmp_path: Path) -> None:
    program = (
        "import os, signal; from groundwork.run_lock import only_run; from groundwork.storage import open_storage\n"
        f"with only_run(open_storage({str(tmp_path)!r})): os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'platform'}:{root}"}
    assert subprocess.run([sys.executable, "-c", program], env=environment).returncode == -9
    out = open_storage(tmp_path)
    assert out.exists(LOCK_FILE)
    with only_run(out):
        pass


@pytest.mark.parametrize(("age", "free"), [(5.0, False), (600.0, True)])
def test_the_lock_of_another_machine_holds_as_long_as_its_heart_beats(tmp_path: Path, age: float, free: bool) -> None:
    out = open_storage(tmp_path)
    out.write_json(LOCK_FILE, {"token": "x", "host": "elsewhere", "pid": 1, "born": "1", "beat": time.time() - age})
    if free:
        with only_run(out):
            pass
    else:
        with pytest.raises(RunError, match="elsewhere"), only_run(out):
            pass
