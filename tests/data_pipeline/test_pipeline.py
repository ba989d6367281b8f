"""The whole pipeline on Ray, on real films: all is accounted for, equal runs give equal bytes, a killed run goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import cloudpickle

from data_pipeline.__main__ import main
from data_pipeline.labels.encoder import model_version
from data_pipeline.labels.heads import EncoderCard, Heads, HeadsCard, write_heads
from data_pipeline.labels.settings import ClassifierSettings, LabelSettings
from data_pipeline.pipeline import curate
from data_pipeline.recipe import CurateRecipe, MediaSettings, Rule
from data_pipeline.report.buckets import bucket_rows
from data_pipeline.report.contents import read_contents
from data_pipeline.resources import ANALYSE
from data_pipeline.workers import AnalyseVideo
from groundwork import media
from groundwork.errors import InputError, RunError
from groundwork.latents import read_index
from groundwork.ray_session import ray_session
from groundwork.records import Clip, Decision, Duplicate, Latent, MediaFile, Rejected, Video, from_table
from groundwork.run_lock import only_run
from groundwork.storage import Storage, open_storage
from tests.support.tiny_vlms import save_siglip

Made = tuple[Storage, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def ray_for_all() -> Iterator[None]:
    with ray_session():
        yield


@pytest.fixture(scope="module")
def mixed(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three films, one of them twice, and three files that are broken."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(footage, folder, dirs_exist_ok=True)
    shutil.copyfile(folder / "bunny.mp4", folder / "bunny_again.mp4")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes((folder / "bikes.mp4").read_bytes()[:60_000])
    (folder / "not_a_film.mp4").write_bytes(b"hello" * 1000)
    return folder


@pytest.fixture(scope="module")
def made(mixed: Path, quick_recipe: CurateRecipe, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("made")
    return open_storage(out), curate(quick_recipe, inputs=[str(mixed)], out=str(out))


def content(out: Storage) -> dict[str, bytes]:
    """Every table of the dataset but the CPU times, byte for byte. The card and the manifest name the workers."""
    skipped = ("work/", "timings/", "report/", "manifest.json", "card.md")
    return {path: out.read_bytes(path) for path in out.list() if not path.startswith(skipped)}


def rows(out: Storage, folder: str, kind: Any) -> list[Any]:
    return from_table(out.read_table(folder), kind)


def test_every_source_and_every_clip_is_accounted_for(made: Made) -> None:
    out, summary = made
    assert summary["videos"] == {"read": 7, "ok": 3, "failed": 3, "duplicate": 1}
    clips = summary["clips"]
    assert clips["found"] == clips["kept"] + sum(clips["rejected"].values()) + clips["failed"]
    hours = summary["hours"]
    assert hours["found"] == pytest.approx(hours["kept"] + hours["rejected"] + hours["failed"], abs=1e-8)
    videos, rejected = rows(out, "videos", Video), rows(out, "rejected", Rejected)
    status = {Path(video.uri).name: video.status for video in videos}
    broken = {"empty.mp4", "cut.mp4", "not_a_film.mp4"}
    assert {name for name, value in status.items() if value == "failed"} == broken
    assert status["bunny_again.mp4"] == "duplicate"
    assert {Path(row.uri).name for row in rejected if row.failed} == broken
    decisions, found = rows(out, "decisions", Decision), rows(out, "clips", Clip)
    assert [row.clip_id for row in decisions] == [row.clip_id for row in found]
    assert sum(row.kept for row in decisions) == clips["kept"] == 10
    assert clips["rejected"] == {"too_short": 1}


def test_latents_lie_in_their_buckets_one_per_kept_clip(made: Made) -> None:
    out, summary = made
    kept = {row.clip_id for row in rows(out, "decisions", Decision) if row.kept}
    latents = rows(out, "latents", Latent)
    assert {row.clip_id for row in latents} == kept
    assert len(latents) == summary["clips"]["kept"]
    for bucket, frames in (("17x32x48", 5), ("9x32x48", 3)):
        assert {tuple(row.latent_shape) for row in rows(out, f"latents/{bucket}", Latent)} == {(16, frames, 4, 6)}
    manifest = out.read_json("manifest.json")
    assert sum(shard["clips"] for shard in manifest["shards"]) == len(latents)
    assert all(out.checksum(path) == entry["sha256"] for path, entry in manifest["files"].items())
    assert out.list("work/encoded") == []


def test_the_report_shows_the_clips_and_loads_nothing(made: Made) -> None:
    out, summary = made
    page = out.read_bytes("report/index.html").decode()
    assert page.count("<figure>") == summary["clips"]["found"]
    assert page.count("data:image/jpeg;base64,") >= summary["clips"]["found"]
    assert "Thresholds" in page
    for word in ("too_short", "camera", "empty.mp4", "same_bytes", "<svg"):
        assert word in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<h2>Buckets</h2>" in page
    rows = bucket_rows(read_contents(out, out.read_json("manifest.json")))
    index = read_index(out)
    assert sum(row.clips for row in rows) == len(index) == summary["clips"]["kept"]
    assert sum(row.clips * row.tokens for row in rows) == sum(clip.num_tokens for clip in index)
    assert all(0 <= share < 1 for row in rows for share in (row.padded, row.cropped, row.upscaled, row.shrunk))
    assert any(row.cropped for row in rows)
    assert "| clips kept | 10 of 11" in out.read_bytes("card.md").decode()


def test_a_second_run_says_that_all_is_done(made: Made, mixed: Path, quick_recipe: CurateRecipe) -> None:
    out, first = made
    before = content(out)
    again = curate(quick_recipe, inputs=[str(mixed)], out=out.uri)
    assert again == {**first, "already_done": True}
    assert content(out) == before


def test_equal_runs_give_equal_bytes_however_the_work_is_divided(
    made: Made, mixed: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    workers = quick_recipe.workers.model_copy(update={"analyse": 1})
    decode = quick_recipe.decode.model_copy(update={"split_seconds": 3.0})
    divided = quick_recipe.model_copy(update={"workers": workers, "decode": decode})
    summary = curate(divided, inputs=[str(mixed)], out=str(tmp_path))
    assert summary["dataset_hash"] == made[1]["dataset_hash"]
    assert content(open_storage(tmp_path)) == content(made[0])


def test_new_rules_and_new_films_recompute_only_what_hangs_on_them(
    footage: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    out = open_storage(tmp_path / "out")
    curate(quick_recipe, inputs=[str(footage / "city.mpg")], out=out.uri)
    analysed = {path: out.filesystem.get_file_info(out.path(path)).mtime_ns for path in out.list("work/analysis")}
    latents = {row.clip_id: row.latent for row in rows(out, "latents", Latent)}
    blurry = quick_recipe.rules["blurry"].model_copy(update={"below": 2000.0})
    strict = quick_recipe.model_copy(update={"rules": {**quick_recipe.rules, "blurry": blurry}})
    summary = curate(strict, inputs=[str(footage / "city.mpg")], out=out.uri)
    assert summary["clips"]["rejected"] == {"blurry": 1}
    assert len(out.list("decisions")) == 1
    summary = curate(quick_recipe, inputs=[str(footage / "city.mpg"), str(footage / "bunny.mp4")], out=out.uri)
    assert (summary["videos"]["read"], summary["clips"]["kept"]) == (2, 5)
    now = {row.clip_id: row.latent for row in rows(out, "latents", Latent)}
    assert latents.items() <= now.items()
    assert {path: out.filesystem.get_file_info(out.path(path)).mtime_ns for path in analysed} == analysed


def test_a_run_killed_midway_goes_on_to_the_same_bytes(
    made: Made, mixed: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(quick_recipe.model_dump_json())
    out = open_storage(tmp_path / "out")
    command = [sys.executable, "-m", "data_pipeline", "run", str(recipe), "--input", str(mixed), "--out", out.uri]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}"}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 400
    while not out.list("work/analysis", suffix=".parquet"):
        assert run.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not out.exists("manifest.json")
    summary = curate(quick_recipe, inputs=[str(mixed)], out=out.uri)
    assert summary["dataset_hash"] == made[1]["dataset_hash"]
    assert content(out) == content(made[0])


def test_a_worse_copy_is_dropped_and_survivors_are_cut_when_asked(
    footage: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    source, out = tmp_path / "in", open_storage(tmp_path / "out")
    source.mkdir()
    frames = media.stack_frames([*media.read_frames(footage / "bikes.mp4", stop_seconds=5.3)])
    media.write_video(source / "film.mp4", frames, fps=25.0)
    media.write_video(source / "copy.mp4", frames[:, 8:-8, 16:-16], fps=25.0, crf=28)
    recipe = quick_recipe.model_copy(update={"media": MediaSettings(mode="copy")})
    summary = curate(recipe, inputs=[str(source)], out=out.uri)
    found = {row.clip_id: row.video_id for row in rows(out, "clips", Clip)}
    (film,) = (row.video_id for row in rows(out, "videos", Video) if row.uri.endswith("film.mp4"))
    assert {found[row.clip_id] for row in rows(out, "latents", Latent)} == {film}
    assert summary["clips"]["rejected"]["near_duplicate"] >= summary["clips"]["kept"] - 1 > 0
    members = rows(out, "duplicates", Duplicate)
    best = {row.clip_id for row in members if row.rank == 0}
    assert {row.representative for row in members} == best <= {row.clip_id for row in rows(out, "latents", Latent)}
    files, manifest = rows(out, "media", MediaFile), out.read_json("manifest.json")
    assert {row.clip_id for row in files} == {row.clip_id for row in rows(out, "latents", Latent)}
    for row in files:
        assert out.checksum(row.path) == row.sha256 == manifest["files"][row.path]["sha256"]
    bare = curate(quick_recipe, inputs=[str(source)], out=out.uri)
    assert out.list("media") == []
    assert bare["clips"] == summary["clips"]
    assert bare["dataset_hash"] != summary["dataset_hash"]


class DiesOnTheBunny(AnalyseVideo):
    """A decoder that takes its process with it."""

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        if "bunny" in row["payload"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(row)


def test_a_model_labels_survivors_and_new_heads_look_at_nothing_again(
    made: Made, mixed: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    shutil.copytree(made[0].uri, tmp_path / "out")
    encoder = str(save_siglip(tmp_path / "siglip"))
    labels = random_heads(tmp_path / "heads", encoder, bias=0.0)
    rules = {**quick_recipe.rules, "edited": Rule(score="label_editing", above=0.5)}
    asked = quick_recipe.model_copy(update={"rules": rules, "labels": labels})
    first = curate(asked, inputs=[str(mixed)], out=str(tmp_path / "out"))
    out = open_storage(tmp_path / "out")
    table = out.read_table("signals/labels").to_pylist()
    scores = {row["clip_id"]: row["label_editing"] for row in table}
    assert {(row["source"], row["model"]) for row in table} == {("classifier", encoder)}
    before = {row.clip_id: row.reason for row in rows(made[0], "decisions", Decision)}
    for decision in rows(out, "decisions", Decision):
        looked_at = before[decision.clip_id] in ("", "near_duplicate")
        assert (scores[decision.clip_id] is not None) == looked_at
        assert (decision.reason == "edited") == (looked_at and scores[decision.clip_id] > 0.5)
    written = out.list("work/labels")
    sterner = asked.model_copy(update={"labels": random_heads(tmp_path / "sterner", encoder, bias=50.0)})
    second = curate(sterner, inputs=[str(mixed)], out=str(tmp_path / "out"))
    assert second["clips"]["rejected"]["edited"] >= first["clips"]["rejected"].get("edited", 0)
    assert second["clips"]["kept"] == 0
    assert out.list("work/labels") == written


def random_heads(folder: Path, encoder: str, *, bias: float) -> LabelSettings:
    """A head that says editing of what lies on one side of a random plane, the more the higher `bias`."""
    made_of = EncoderCard(
        model=encoder, version=model_version(encoder, revision="", setting=""), num_frames=2, short_side=32, width=64
    )
    facts: dict[str, Any] = {name: {} for name in HeadsCard.model_fields if name not in ("schema_version", "positive")}
    facts |= {"encoder": made_of, "labels": ("editing",), "hidden": 0, "wanted_precision": 0.9, "weights_sha256": ""}
    heads = Heads(64, count=1, hidden=0)
    torch.nn.init.normal_(heads.outer, generator=torch.Generator().manual_seed(0))
    torch.nn.init.constant_(heads.bias, bias)
    write_heads(str(folder), heads, HeadsCard(**facts), policy="")
    return LabelSettings(mode="classifier", classifier=ClassifierSettings(heads=str(folder)))


def test_a_film_that_kills_its_worker_costs_that_film_alone_and_is_tried_again_next_time(
    footage: Path, quick_recipe: CurateRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    manifest = tmp_path / "films.csv"
    manifest.write_text(f"uri,licence,title\n{footage}/bunny.mp4,CC-BY-3.0,Rabbit\n,,nothing\n{footage}/city.mpg,,\n")
    inputs, out = [str(manifest)], str(tmp_path / "out")
    strict = quick_recipe.model_copy(update={"rules": {"static": Rule(score="motion_score", below=1e9)}})
    with monkeypatch.context() as patch:
        patch.setattr("data_pipeline.stages.ANALYSE", replace(ANALYSE, worker=DiesOnTheBunny))
        summary = curate(strict, inputs=inputs, out=out)
    assert summary["videos"] == {"read": 3, "ok": 1, "failed": 2, "duplicate": 0}
    assert summary["clips"] == {"found": 3, "kept": 0, "rejected": {"static": 3}, "failed": 0}
    lost = {Path(row.uri).name: (row.stage, row.reason) for row in rows(open_storage(out), "rejected", Rejected)}
    assert lost == {"bunny.mp4": ("analyse", "crashed"), "films.csv#3": ("ingest", "bad_row")}
    summary = curate(strict, inputs=inputs, out=out)
    assert (summary["videos"]["failed"], summary["clips"]["found"]) == (1, 5)
    said = {Path(row.uri).name: (row.licence, row.metadata) for row in rows(open_storage(out), "videos", Video)}
    assert said["bunny.mp4"] == ("CC-BY-3.0", '{"title": "Rabbit"}')


def test_a_second_start_on_the_same_output_is_an_error(
    footage: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    with only_run(open_storage(tmp_path)), pytest.raises(RunError, match="Another run"):
        curate(quick_recipe, inputs=[str(footage)], out=str(tmp_path))


def test_too_few_cpus_are_an_error_and_not_a_wait(footage: Path, quick_recipe: CurateRecipe, tmp_path: Path) -> None:
    greedy = quick_recipe.model_copy(update={"workers": quick_recipe.workers.model_copy(update={"cpus": 900.0})})
    with pytest.raises(RunError, match="900 CPU"):
        curate(greedy, inputs=[str(footage / "city.mpg")], out=str(tmp_path))


def test_an_empty_folder_is_an_error_and_makes_nothing(quick_recipe: CurateRecipe, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="No video found"):
        curate(quick_recipe, inputs=[str(tmp_path / "in")], out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert main(["run", "toy", "--input", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 1


def test_the_command_line_answers_in_json_and_with_exit_codes(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    assert "toy" in json.loads(capsys.readouterr().out)
    assert main(["report", made[0].uri]) == 0
    assert capsys.readouterr().out.strip().endswith("report/index.html")
    assert main(["run", "toy"]) == 2
    assert main(["plan"]) == 2
    assert main(["report", "/nowhere"]) == 1


def test_buckets_are_planned_from_the_shots_of_a_dataset(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["buckets", made[0].uri, "--count", "3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["variant"] == "toy"
    assert 0 < result["shots"] <= len(rows(made[0], "clips", Clip))
    assert 1 <= len(result["buckets"]) <= 3
    table = {row["buckets"]: row["waste"] for row in result["waste"][0]["table"]}
    assert min(table, key=lambda name: table[name]) == f"planned, {len(result['buckets'])}"
    assert "the recipe's" in table
