"""Every command of the contract exists; those not built yet say so with exit code 2; bad words end with 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cogvideox import CogVideoX
from cogvideox.weights import load_denoiser
from conductor.__main__ import main
from conductor.generate import parse_size
from conductor.submit import entrypoint
from groundwork import media
from groundwork.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]

BUILT = [
    "curate run", "curate recipes", "curate report", "train run", "train plan", "train explain", "train report",
    "train recipes", "curate plan", "curate replay", "curate label", "curate calibrate", "curate forget",
    "curate policies", "curate costs", "curate export", "curate buckets", "curate label train",
    "curate captioner train", "serve run", "serve build", "generate", "convert", "submit", "demo", "doctor",
]  # fmt: skip
NOT_BUILT = ["evaluate", "pipeline"]


@pytest.mark.parametrize("words", BUILT)
def test_a_built_command_explains_itself(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: cvx {words}" in capsys.readouterr().out


@pytest.mark.parametrize("words", NOT_BUILT)
def test_a_command_not_built_yet_says_so(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words.split(), "anything", "--flag"]) == 2
    assert "not built yet" in capsys.readouterr().err


def test_the_readme_lists_what_is_not_built() -> None:
    table = (ROOT / "README.md").read_text().split("## What works, and what does not yet")[1].split("\n\n")[1]
    rows = "\n".join(row for row in table.splitlines() if "not built" in row)
    assert [
        words
        for words in NOT_BUILT
        if f"`{words.split()[-1]}" not in rows.replace("`cvx ", "`").replace("curate ", "").replace("train ", "")
    ] == []


@pytest.mark.parametrize("words", [[], ["dance"], ["curate", "dance"], ["train"], ["serve", "dance"]])
def test_words_that_name_no_command_end_with_2(words: list[str]) -> None:
    assert main(words) == 2


def test_a_size_is_width_by_height() -> None:
    assert parse_size("144x96") == (96, 144)
    for bad in ("144", "x96", "0x96", "144x", "axb"):
        with pytest.raises(UsageError, match="WIDTHxHEIGHT"):
            parse_size(bad)


def test_a_submitted_command_runs_the_stages_own_entry_point() -> None:
    assert entrypoint(["curate", "run", "toy", "--out", "a b"]) == "python -m data_pipeline run toy --out 'a b'"
    assert entrypoint(["doctor"]) == "python -m conductor doctor"
    with pytest.raises(UsageError, match="Which command"):
        entrypoint([])


def test_doctor_looks_at_this_machine_and_prints_one_json_document(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conductor", "doctor", "--json", "--storage", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    assert {finding["what"] for finding in found["findings"]} >= {"Python", "H.264 in mp4", f"storage {tmp_path}"}
    assert found["works"], [finding for finding in found["findings"] if not finding["works"]]


def test_one_video_without_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "weights", tmp_path / "made" / "film.mp4"
    CogVideoX.toy(seed=0).save_pretrained(weights)
    words = ["generate", str(weights), "--prompt", "a rabbit", "--out", str(out), "--steps", "2", "--num-frames", "9"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_frames"] == 9
    header = media.probe(out)
    assert (header.width, header.height, len(list(media.read_frames(out)))) == (144, 96, 9)
    assert main([*words[:-2], "--num-frames", "10"]) == 2
    assert "10" in capsys.readouterr().err


def test_a_model_goes_to_the_sat_layout_and_back_unchanged(tmp_path: Path) -> None:
    first, sat, back = tmp_path / "first", tmp_path / "sat", tmp_path / "back"
    CogVideoX.toy(seed=3).save_pretrained(first)
    assert main(["convert", str(first), str(sat), "--to", "sat"]) == 0
    assert main(["convert", str(sat), str(back), "--to", "diffusers", "--variant", "toy"]) == 0
    before, after = (load_denoiser(folder / "transformer").state_dict() for folder in (first, back))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert main(["convert", str(sat), str(back), "--to", "diffusers"]) == 2
    assert main(["convert", str(sat), str(tmp_path / "x"), "--to", "diffusers", "--variant", "toys"]) == 2
