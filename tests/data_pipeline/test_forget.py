"""Forget: nothing of a source is left but a tombstone, whatever happens on the way, and it never comes in again."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_pipeline import forget as module
from data_pipeline.__main__ import main
from data_pipeline.dataset import content_hash
from data_pipeline.forget import forget
from data_pipeline.label.labels import Label, LabelFile
from data_pipeline.pipeline import curate
from data_pipeline.recipe import CurateRecipe
from groundwork.errors import InputError
from groundwork.ray_session import ray_session
from groundwork.records import Clip, Decision, Latent, Rejected, Text, Video, from_table, text_id
from groundwork.shard import read_footer, read_rows, write_shard
from groundwork.storage import Storage, open_storage

NAMED = ("tombstones/", "videos/", "rejected/", "manifest.json", "report/")
"""Where the id of a forgotten source may still stand: as the row that says so."""


def rows(out: Storage, folder: str, kind: Any) -> list[Any]:
    return from_table(out.read_table(folder), kind)


@pytest.fixture(scope="module")
def made(footage: Path, quick_recipe: CurateRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forget") / "dataset"
    inputs = [str(footage / name) for name in ("bunny.mp4", "city.mpg")]
    with ray_session():
        curate(quick_recipe, inputs=inputs, out=str(folder))
    return folder


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Storage:
    """A copy, with labels and with decisions by another policy."""
    shutil.copytree(made, tmp_path / "dataset")
    out = open_storage(tmp_path / "dataset")
    labels = LabelFile(out, "mine")
    for clip in rows(out, "clips", Clip):
        labels.put(Label(clip.clip_id, ("good",)))
    assert main(["replay", out.uri, "--rules", "allegro"]) == 0
    return out


def bunny(out: Storage) -> tuple[str, set[str]]:
    (video,) = (row for row in rows(out, "videos", Video) if row.uri.endswith("bunny.mp4"))
    return video.video_id, {row.clip_id for row in rows(out, "clips", Clip) if row.video_id == video.video_id}


def content(out: Storage) -> dict[str, bytes]:
    return {path: out.read_bytes(path) for path in out.list() if not path.startswith("report/")}


def tables(out: Storage) -> dict[str, list[dict[str, Any]]]:
    """The tables that the manifest names, but the CPU times."""
    paths = out.read_json("manifest.json")["files"]
    return {path: out.read_table(path).to_pylist() for path in paths if not path.startswith("timings/")}


def text_of(out: Storage, path: str) -> str:
    if path.endswith(".parquet"):
        return str(pq.read_table(out.path(path)).to_pydict())
    return out.read_bytes(path).decode(errors="replace")


def test_nothing_of_a_forgotten_source_is_left_but_rows_that_say_so(dataset: Storage) -> None:
    video_id, clip_ids = bunny(dataset)
    before = dataset.read_json("manifest.json")
    result = forget(dataset.uri, video=video_id)
    assert result["clips"] == len(clip_ids) > 0
    for path in dataset.list():
        if not path.startswith("tombstones/"):
            said = text_of(dataset, path)
            assert not any(clip_id in path + said for clip_id in clip_ids), path
            assert path.startswith(NAMED) or video_id not in path + said, path
    manifest = dataset.read_json("manifest.json")
    assert manifest["complete"]
    assert all(dataset.checksum(path) == entry["sha256"] for path, entry in manifest["files"].items())
    assert manifest["dataset_hash"] == content_hash(manifest["files"]) != before["dataset_hash"]
    assert manifest["videos"] == {"read": 2, "ok": 1, "failed": 0, "duplicate": 0, "forgotten": 1}
    assert manifest["clips"]["found"] == before["clips"]["found"] - len(clip_ids)
    clips = manifest["clips"]
    assert clips["found"] == clips["kept"] + sum(clips["rejected"].values()) + clips["failed"]
    assert {row.clip_id for row in rows(dataset, "latents", Latent)} == {
        row.clip_id for row in rows(dataset, f"decisions/{manifest['policy']['hash']}", Decision) if row.kept
    }
    assert sum(shard["clips"] for shard in manifest["shards"]) == clips["kept"]
    (told,) = rows(dataset, "rejected", Rejected)
    assert (told.video_id, told.reason, told.failed) == (video_id, "forgotten", False)


def test_further_captions_and_their_embeddings_go_too(dataset: Storage) -> None:
    manifest = dataset.read_json("manifest.json")
    texts = set()
    for path in dataset.list("latents"):
        footer = read_footer(dataset, path)
        found = [
            replace(row, alternatives=[f"of {row.clip_id}", "shared"])
            for row in read_rows(dataset, path, footer, Latent, range(len(footer.rows)))
        ]
        write_shard(dataset, path, found, Latent, metadata=footer.metadata)
        texts |= {text for row in found for text in row.alternatives}
    stored = [Text(text_id(text), text, b"ab", [1, 1]) for text in sorted(texts)]
    write_shard(dataset, "texts/part.parquet", stored, Text)
    write_shard(dataset, "work/texts/t/of-a-killed-run.parquet", stored, Text)
    for path in (*dataset.list("latents"), "texts/part.parquet"):
        manifest["files"][path] = {"bytes": dataset.size(path), "sha256": dataset.checksum(path)}
    dataset.write_json("manifest.json", manifest)
    video_id, clip_ids = bunny(dataset)
    result = forget(dataset.uri, video=video_id)
    assert "texts/part.parquet" in result["files_changed"]
    left = {row.text for row in rows(dataset, "texts", Text)}
    assert left == texts - {f"of {clip_id}" for clip_id in clip_ids}
    assert left == {text for row in rows(dataset, "latents", Latent) for text in row.alternatives}
    assert dataset.list("work/texts") == []
    entries = dataset.read_json("manifest.json")["files"].items()
    assert all(dataset.checksum(path) == entry["sha256"] for path, entry in entries)


def test_a_killed_removal_is_completed_by_the_next_one(dataset: Storage, tmp_path: Path) -> None:
    shutil.copytree(dataset.root, tmp_path / "other")
    other = open_storage(tmp_path / "other")
    video_id, _ = bunny(dataset)
    forget(dataset.uri, video=video_id)
    for fatal in ("_clean", "_note", "recount"):  # before the tables, behind them, before the manifest
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, fatal, interrupt)
            with pytest.raises(Killed):
                forget(other.uri, video=video_id)
        assert not other.read_json("manifest.json")["complete"]
    forget(other.uri, video=video_id)
    assert content(other) == content(dataset)
    assert forget(other.uri, video=video_id)["already_done"]


class Killed(Exception):
    """The end of the process, as far as this test is concerned."""


def interrupt(*_: object) -> None:
    raise Killed


def test_a_forgotten_source_never_comes_in_again(
    dataset: Storage, footage: Path, quick_recipe: CurateRecipe, tmp_path: Path
) -> None:
    video_id, _ = bunny(dataset)
    forget(dataset.uri, video=str(footage / "bunny.mp4"))
    before = tables(dataset)
    inputs = [str(footage / name) for name in ("bunny.mp4", "city.mpg")]
    shutil.copyfile(footage / "bunny.mp4", tmp_path / "renamed.mp4")
    summary = curate(quick_recipe, inputs=inputs, out=dataset.uri)
    assert summary["videos"] == {"read": 2, "ok": 1, "failed": 0, "duplicate": 0, "forgotten": 1}
    # Only the names of the shards, which tell the clips they hold, are new.
    after = tables(dataset)
    assert {path: before[path] for path in after if not path.startswith("latents/")} == {
        path: after[path] for path in after if not path.startswith("latents/")
    }
    assert curate(quick_recipe, inputs=inputs, out=dataset.uri)["already_done"]
    summary = curate(quick_recipe, inputs=[str(tmp_path / "renamed.mp4"), inputs[1]], out=dataset.uri)
    assert summary["videos"]["forgotten"] == 1
    assert video_id not in {row.video_id for row in rows(dataset, "clips", Clip)}


def test_an_unknown_source_is_an_error(dataset: Storage) -> None:
    with pytest.raises(InputError, match="knows no video"):
        forget(dataset.uri, video="nothing")
    assert main(["forget", dataset.uri]) == 2
