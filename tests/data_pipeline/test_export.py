"""Export: other trainers read it without us, equal datasets give equal bytes, a killed export goes on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import lance
import numpy as np
import pandas as pd
import pytest
import torch
import webdataset
from safetensors.torch import load

from data_pipeline.__main__ import main
from data_pipeline.dataset import content_hash
from data_pipeline.export import export as module
from data_pipeline.export.export import export
from groundwork.errors import InputError, UsageError
from groundwork.latents import float32, open_dataset, to_torch
from groundwork.media import probe
from groundwork.records import Clip, Latent, MediaFile, Text, Video, text_id, to_table
from groundwork.shard import write_shard
from groundwork.storage import Storage, open_storage

BUCKETS = {"9x32x48": 5, "1x32x48": 3}


def add_shard(out: Storage, path: str, rows: list[Latent]) -> dict[str, object]:
    write_shard(out, path, rows, Latent)
    return {"path": path, "bucket": path.split("/")[1], "clips": len(rows), "sha256": out.checksum(path)}


def latent_row(clip_id: str, frames: int) -> Latent:
    values = torch.randn(16, frames, 4, 6, generator=torch.Generator().manual_seed(len(clip_id) + frames))
    latent = values.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()
    return Latent(
        clip_id,
        latent,
        [16, frames, 4, 6],
        latent[:80],
        [5, 8],
        tokens=6 * frames,
        caption=f"what {clip_id} shows",
        log_variance=latent[::-1] if frames == 1 else b"",
        alternatives=["told otherwise"],
    )


@pytest.fixture
def dataset(tmp_path: Path, footage: Path) -> Storage:
    """A finished dataset of eight clips in three shards, with films and a licence: what the export reads of one."""
    out = open_storage(tmp_path / "dataset")
    names = [f"{bucket[0]}{number}" for bucket, count in BUCKETS.items() for number in range(count)]
    shards = [
        add_shard(out, "latents/9x32x48/part-0-aa.parquet", [latent_row(name, 3) for name in names[:3]]),
        add_shard(out, "latents/9x32x48/part-1-bb.parquet", [latent_row(name, 3) for name in names[3:5]]),
        add_shard(out, "latents/1x32x48/part-all-cc.parquet", [latent_row(name, 1) for name in names[5:]]),
    ]
    write_shard(out, "texts/t.parquet", [Text(text_id("told otherwise"), "told otherwise", b"ab" * 40, [5, 8])], Text)
    clips = [Clip(name, "v", n, n + 1, 1, 24, n / 24, (n + 1) / 24, 1, 64, 48, 24.0) for n, name in enumerate(names)]
    out.write_table("clips/part.parquet", to_table(clips, Clip))
    video = Video("v", "films/bunny.mp4", 1, "mp4", "h264", 25.0, 5.0, 64, 48, "CC-BY-3.0", "ok", "", "", '{"by": "x"}')
    out.write_table("videos/part.parquet", to_table([video], Video))
    films = []
    for name in names:
        path = f"media/{name}.mp4"
        out.upload(footage / "bunny.mp4", path)
        films.append(MediaFile(name, path, out.size(path), out.checksum(path), "copy", "", 1, 1, "key"))
    out.write_table("media/part-00000.parquet", to_table(films, MediaFile))
    finish(out, shards)
    return out


def finish(out: Storage, shards: list[dict[str, object]]) -> None:
    files = {path: {"bytes": out.size(path), "sha256": out.checksum(path)} for path in out.list() if "/" in path}
    manifest = {
        "complete": True,
        "dataset_hash": content_hash(files),
        "files": files,
        "shards": shards,
        "variant": "toy",
        "models": {"scale_factor": 1.5},
        "recipe": {"clips": {"fps": 8.0}},
    }
    out.write_json("manifest.json", manifest)


def content(out: Storage) -> dict[str, bytes]:
    return {path: out.read_bytes(path) for path in out.list() if path != "export.json"}


def test_plain_webdataset_reads_the_tars(dataset: Storage, tmp_path: Path) -> None:
    assert main(["export", dataset.uri, "--to", "webdataset", "--out", str(tmp_path / "tars"), "--with", "both"]) == 0
    out = open_storage(tmp_path / "tars")
    names = out.read_bytes("shards.txt").decode().split()
    assert len(names) == 3
    urls = [str(tmp_path / "tars" / name) for name in names]
    decoding = webdataset.handle_extension("safetensors", load)
    found = {one["__key__"]: one for one in webdataset.WebDataset(urls, shardshuffle=False).decode(decoding)}
    source = open_dataset(dataset)
    assert sorted(found) == [clip.clip_id for clip in source.index]
    for number, clip in enumerate(source.index):
        one, stored = found[clip.clip_id], source.read(number)
        assert torch.equal(one["safetensors"]["latent"], to_torch(stored.latent))
        assert torch.equal(one["safetensors"]["text_embedding"], to_torch(stored.text_embedding))
        assert ("log_variance" in one["safetensors"]) == (stored.log_variance is not None)
        further = to_torch(source.read(number, caption=1).text_embedding)
        assert torch.equal(one["safetensors"]["text_embedding_1"], further)
        assert one["txt"] == one["json"]["captions"][0] == f"what {clip.clip_id} shows"
        assert (one["json"]["licence"], one["json"]["metadata"]) == ("CC-BY-3.0", {"by": "x"})
        assert one["json"]["num_frames"] == int(clip.bucket.split("x")[0])
        assert isinstance(one["mp4"], bytes)
    (tmp_path / "film.mp4").write_bytes(one["mp4"])
    assert probe(tmp_path / "film.mp4").codec == "h264"


def test_equal_datasets_give_equal_tars_without_times_and_owners(dataset: Storage, tmp_path: Path) -> None:
    outs = [open_storage(tmp_path / name) for name in ("a", "b")]
    for out in outs:
        export(dataset.uri, to="webdataset", out=out.uri)
    assert content(outs[0]) == content(outs[1])
    manifest = outs[0].read_json("export.json")
    assert manifest["complete"]
    assert manifest["clips"] == sum(entry["clips"] for entry in manifest["files"].values()) == 8
    for name, entry in manifest["files"].items():
        data = outs[0].read_bytes(name)
        assert (entry["bytes"], entry["sha256"]) == (len(data), outs[0].checksum(name))
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            members = tar.getmembers()
        assert [member.name for member in members] == sorted(member.name for member in members)
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_pandas_reads_the_parquet_tables(dataset: Storage, tmp_path: Path) -> None:
    assert export(dataset.uri, to="parquet", out=str(tmp_path / "tables"))["clips"] == 8
    frame = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "tables").glob("*.parquet"))])
    source = open_dataset(dataset)
    for number, clip in enumerate(source.index):
        (row,) = frame[frame.clip_id == clip.clip_id].to_dict("records")
        stored = source.read(number)
        assert np.array_equal(row["latent"].reshape(row["latent_shape"]), float32(stored.latent))
        assert np.array_equal(row["text_embeddings"][0].reshape(row["text_shape"]), float32(stored.text_embedding))
        assert len(row["text_embeddings"]) == len(row["captions"]) == 2
        assert (row["log_variance"] is None) == (stored.log_variance is None)
        assert row["video"] is None
        assert json.loads(row["metadata"]) == {"by": "x"}


def test_a_lance_table_holds_each_clip_once_also_when_it_is_made_again(dataset: Storage, tmp_path: Path) -> None:
    out = tmp_path / "lance"
    assert export(dataset.uri, to="lance", out=str(out), contents="both")["written"] == 3
    assert export(dataset.uri, to="lance", out=str(out), contents="both")["kept"] == 3
    table = lance.dataset(str(out / "clips.lance"))
    rows = {row["clip_id"]: row for row in table.to_table().to_pylist()}
    assert len(rows) == table.count_rows() == 8
    source = open_dataset(dataset)
    assert np.array_equal(rows[source.index[6].clip_id]["latent"], float32(source.read(6).latent).ravel())
    assert rows["90"]["video"] == dataset.read_bytes("media/90.mp4")
    assert export(dataset.uri, to="lance", out=str(out))["written"] == 3  # without films: all rows are others
    assert lance.dataset(str(out / "clips.lance")).count_rows("video IS NULL") == table.count_rows() == 8


def test_an_export_that_was_killed_goes_on_and_a_changed_shard_is_written_again(
    dataset: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = open_storage(tmp_path / "out"), module.write_tar

    def killed(path: Path, clips: object) -> None:
        if len([name for name in out.list() if name.endswith(".tar")]) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        write(path, clips)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_tar", killed)
    with pytest.raises(KeyboardInterrupt):
        export(dataset.uri, to="webdataset", out=out.uri)
    monkeypatch.undo()
    assert not out.read_json("export.json")["complete"]
    told = export(dataset.uri, to="webdataset", out=out.uri)
    assert (told["written"], told["kept"]) == (1, 2)
    before = content(out)
    manifest = dataset.read_json("manifest.json")
    left = [one for one in manifest["shards"] if "part-1" not in one["path"]]
    dataset.delete("latents/9x32x48/part-1-bb.parquet")
    new = add_shard(dataset, "latents/9x32x48/part-1-dd.parquet", [latent_row("93", 3)])
    finish(dataset, [*left, new])
    told = export(dataset.uri, to="webdataset", out=out.uri)
    assert (told["written"], told["kept"], told["clips"]) == (1, 2, 7)
    after = content(out)
    assert len(before.items() & after.items()) == 2
    assert len([name for name in after if name.endswith(".tar")]) == 3
    fresh = open_storage(tmp_path / "fresh")
    export(dataset.uri, to="webdataset", out=fresh.uri)
    assert content(fresh) == after


def test_what_cannot_be_exported_is_told(dataset: Storage, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    path = "latents/9x32x48/part-1-bb.parquet"
    whole = dataset.read_bytes(path)
    dataset.write_bytes(path, whole[:300] + b"?" + whole[301:])
    with pytest.raises(InputError, match=r"part-1-bb\.parquet is damaged: its checksum"):
        export(dataset.uri, to="parquet", out=out)
    dataset.write_bytes(path, whole)
    export(dataset.uri, to="parquet", out=out)
    with pytest.raises(InputError, match="holds an export as parquet"):
        export(dataset.uri, to="webdataset", out=out)
    with pytest.raises(UsageError, match="the dataset itself"):
        export(dataset.uri, to="parquet", out=dataset.uri)
    manifest = dataset.read_json("manifest.json")
    without = {name: entry for name, entry in manifest["files"].items() if not name.startswith("media/")}
    dataset.write_json("manifest.json", {**manifest, "files": without})
    with pytest.raises(InputError, match="holds no media files"):
        export(dataset.uri, to="webdataset", out=str(tmp_path / "films"), contents="media")
    dataset.write_json("manifest.json", {**manifest, "complete": False})
    with pytest.raises(InputError, match="is not finished"):
        export(dataset.uri, to="parquet", out=out)
    assert main(["export", dataset.uri]) == 2


def test_an_object_store_takes_the_export(dataset: Storage, s3_uri: str) -> None:
    base, _, query = s3_uri.partition("?")
    out = open_storage(f"{base}/export?{query}")
    assert export(dataset.uri, to="webdataset", out=out.uri)["written"] == 3
    assert export(dataset.uri, to="webdataset", out=out.uri)["kept"] == 3
    assert out.read_json("export.json")["complete"]
