"""Plan: headers alone give a forecast whose intervals hold what a run then finds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from data_pipeline.__main__ import main
from data_pipeline.plan import latent_bytes, plan, plan_text
from data_pipeline.rates import Interval, Shape, assumed_rates
from data_pipeline.recipe import RECIPES, CurateRecipe
from groundwork.config import load_recipe
from groundwork.errors import InputError
from groundwork.storage import open_storage
from tests.support.synthetic import write_dataset

TOY = load_recipe(CurateRecipe, "toy", folder=RECIPES)


def test_a_plan_reads_headers_only_and_tells_what_it_assumed(footage: Path, tmp_path: Path) -> None:
    shutil.copytree(footage, tmp_path / "in")
    (tmp_path / "in" / "empty.mp4").touch()
    result = plan(TOY, inputs=[str(tmp_path / "in")], out=str(tmp_path / "out"))
    assert result["videos"] == {"read": 4, "failed": 1}
    assert [Path(uri).name for uri in result["failed"]] == ["empty.mp4"]
    assert "assumptions" in result["basis"]
    low, likely, high = result["clips"]["found"]
    assert low <= likely <= high
    assert low <= 11 <= high + 2  # what a run finds in these three films
    assert sum(row["clips"][1] for row in result["buckets"]) == pytest.approx(result["clips"]["kept"][1], abs=1)
    assert result["disk"]["free"] > 0
    assert not (tmp_path / "out").exists()
    assert "not known: give --like" in plan_text(result)


def test_clips_of_a_plan_come_from_the_clip_planner() -> None:
    film = Shape(width=640, height=360, fps=25.0, seconds=50.0)
    rates = assumed_rates(TOY, [film])
    # Shots of 5 s hold two clips of 17 frames at 8 per second, and nothing else.
    assert rates.found_per_hour.likely == pytest.approx(20 / 50 * 3600)
    assert rates.bucket_shares == {"17x96x144": 1.0}


def test_bytes_of_a_clip_are_those_of_its_latent_and_text() -> None:
    assert latent_bytes(TOY, "17x96x144") == 2 * (16 * 5 * 12 * 18 + 32 * 256)


def test_a_dataset_gives_the_yield_with_an_interval(footage: Path, tmp_path: Path) -> None:
    out = open_storage(tmp_path / "sample")
    write_dataset(out, TOY, clips=400, videos=True)
    result = plan(TOY, inputs=[str(footage)], out=str(tmp_path / "out"), like=out.uri)
    low, likely, high = result["clips"]["kept_share"]
    assert 0 < low < likely < high < 1
    assert result["rates"]["analyse_cpu_seconds_per_hour"][1] == pytest.approx(20 * 0.5 * 3600 / 60, rel=0.01)
    assert result["cpu_hours"]["encode"][1] > 0
    other = TOY.model_copy(update={"buckets": TOY.buckets[:1]})
    with pytest.raises(InputError, match="other buckets"):
        plan(other, inputs=[str(footage)], out=str(tmp_path / "out"), like=out.uri)


def test_intervals_multiply_end_by_end() -> None:
    assert Interval(1, 2, 3).along(Interval(2, 2, 4)) + Interval(1, 1, 1) == Interval(3, 5, 13)


def test_the_command_prints_json(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "toy", "--input", str(footage), "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hours"] > 0
    assert main(["plan", "toy"]) == 2
