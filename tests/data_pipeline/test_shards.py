"""Shards: equal whatever came first, little rewritten when clips come, each text once, nothing damaged kept."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from data_pipeline.encode import EncodeJob
from data_pipeline.recipe import Bucket, EncodeSettings
from data_pipeline.shards import (
    Prints,
    Shard,
    drop_staged,
    drop_unused_texts,
    find_encoded,
    parts,
    stage,
    without_clips,
    write_shards,
)
from data_pipeline.texts import distinct_texts, load_embedder, stage_texts
from groundwork.latents import open_dataset
from groundwork.records import Latent, Text, from_table
from groundwork.storage import Storage, open_storage

BUCKET = Bucket(num_frames=9, height=32, width=48)
PRINTS = Prints(encode="e", text="t")
ROW_BYTES = 8 + 32 * 256 * 2


def job(clip_id: str, *captions: str) -> EncodeJob:
    return EncodeJob(clip_id, 0.0, 8.0, BUCKET, captions or ("a shot",))


def stage_all(out: Storage, jobs: list[EncodeJob], prints: Prints = PRINTS) -> None:
    """What the workers would leave, of what is missing."""
    found = find_encoded(out, jobs, prints)
    for one in jobs:
        if one.clip_id not in found.latents:
            row = Latent(one.clip_id, one.clip_id.rjust(8).encode()[:8], [1, 1, 2, 2], b"", [], tokens=1, caption="")
            stage(out, one, row, fingerprint=prints.encode)
    texts = [text for key, text in distinct_texts(jobs).items() if key not in found.texts]
    if texts:
        embedder = load_embedder("toy", EncodeSettings(texts_per_batch=2))
        stage_texts(out, embedder.embed(texts), fingerprint=prints.text)


def written(out: Storage, jobs: list[EncodeJob], *, clips: int = 4, prints: Prints = PRINTS) -> list[Shard]:
    stage_all(out, jobs, prints)
    found = find_encoded(out, jobs, prints)
    shards, texts = write_shards(out, jobs, found, prints, shard_bytes=clips * ROW_BYTES)
    for path in [*out.list("latents"), *out.list("texts")]:
        if path not in {*(shard.path for shard in shards), *texts}:
            out.delete(path)
    drop_staged(out)
    return shards


def content(out: Storage) -> dict[str, bytes]:
    return {path: out.read_bytes(path) for path in out.list()}


def written_at(out: Storage) -> dict[str, int]:
    return {path: Path(out.path(path)).stat().st_mtime_ns for path in out.list()}


def test_parts_hold_at_most_so_many_and_everything_once() -> None:
    members = {f"clip{n}": n for n in range(1000)}
    divided = parts(members, 10)
    assert sorted(n for _, part in divided for n in part) == list(range(1000))
    assert all(0 < len(part) <= 10 for _, part in divided)
    assert 1000 / len(divided) > 5  # half full on average, or better
    assert parts({}, 10) == []
    assert parts({"a": 1}, 10) == [("all", [1])]


def test_one_more_clip_changes_one_part() -> None:
    members = {f"clip{n}": f"clip{n}" for n in range(1000)}
    before = {(bits, *part) for bits, part in parts(members, 10)}
    for n in range(30):
        after = {(bits, *part) for bits, part in parts({**members, f"new{n}": f"new{n}"}, 10)}
        assert len(before - after) == 1
        assert len(after - before) in (1, 2)


def test_shards_hold_clips_in_the_order_of_ids_one_row_group_each(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    shards = written(out, [job(name) for name in "dbacefgh"], clips=3)
    assert sum(shard.clips for shard in shards) == 8
    assert max(shard.clips for shard in shards) <= 3
    for shard in shards:
        rows = from_table(out.read_table(shard.path), Latent)
        assert [row.clip_id for row in rows] == sorted(row.clip_id for row in rows)
        assert pq.ParquetFile(out.path(shard.path)).metadata.num_row_groups == len(rows) == shard.clips
        assert all((row.text_shape, row.caption) == ([32, 256], "a shot") for row in rows)


def test_equal_datasets_have_equal_bytes_whatever_came_first(tmp_path: Path) -> None:
    jobs = [job(f"clip{n}", f"caption {n % 3}", f"other words {n % 5}") for n in range(30)]
    at_once, grown = open_storage(tmp_path / "a"), open_storage(tmp_path / "b")
    written(at_once, jobs)
    shuffled = random.Random(1).sample(jobs, len(jobs))
    for count in (7, 19, 30):
        written(grown, shuffled[:count])
    assert content(grown) == content(at_once)


def test_shards_that_stand_are_kept_when_a_clip_comes(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    jobs = [job(f"clip{n}") for n in range(40)]
    written(out, jobs)
    before = written_at(out)
    written(out, [*jobs, job("new")])
    after = written_at(out)
    assert len(before.items() - after.items()) == 1
    assert len(after.items() - before.items()) in (1, 2)


def test_new_words_and_new_latents_recompute_only_themselves(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    jobs = [job("a"), job("b")]
    written(out, jobs)
    assert find_encoded(out, [*jobs, job("new")], PRINTS).latents.keys() == {"a", "b"}
    told = [job("a", "told otherwise"), job("b")]
    found = find_encoded(out, told, PRINTS)
    assert found.latents.keys() == {"a", "b"}
    assert distinct_texts(told).keys() - found.texts.keys() == distinct_texts(told[:1]).keys()
    other_encoder = find_encoded(out, jobs, replace(PRINTS, encode="other"))
    assert (len(other_encoder.latents), len(other_encoder.texts)) == (0, 1)
    other_text = find_encoded(out, jobs, replace(PRINTS, text="other"))
    assert (len(other_text.latents), len(other_text.texts)) == (2, 0)
    assert find_encoded(out, [replace(job("a"), fps=16.0)], PRINTS).latents == {}


def test_a_text_is_stored_once_however_many_clips_share_it(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    jobs = [job(f"clip{n}", "the first", "shared", f"own {n % 2}") for n in range(6)]
    written(out, jobs)
    texts = from_table(out.read_table("texts"), Text)
    assert sorted(row.text for row in texts) == ["own 0", "own 1", "shared"]
    dataset = open_dataset(out)
    stored = {row.text: row.text_embedding for row in texts}
    assert dataset.index[3].num_captions == 3
    assert dataset.captions(3) == ("the first", "shared", "own 1")
    assert dataset.read(3, caption=1).text_embedding.tobytes() == stored["shared"]
    assert dataset.read(3, caption=2).text_embedding.tobytes() == stored["own 1"]
    assert dataset.read(3).text_embedding.tobytes() not in stored.values()


def test_texts_that_no_clip_carries_any_more_go_with_the_clips(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    shards = written(out, [job("a", "x", "alone"), job("b", "x", "shared"), job("c", "x", "shared")], clips=9)
    assert without_clips(out, shards[0].path, frozenset({"a"}))
    assert not without_clips(out, shards[0].path, frozenset({"a"}))
    assert drop_unused_texts(out) == set(out.list("texts"))
    assert [row.text for row in from_table(out.read_table("texts"), Text)] == ["shared"]
    assert drop_unused_texts(out) == set()
    assert [row.clip_id for row in from_table(out.read_table("latents"), Latent)] == ["b", "c"]
    # What is left is still found, and the shard under its proper name is made of it.
    left = [job("b", "x", "shared"), job("c", "x", "shared")]
    assert find_encoded(out, left, PRINTS).latents.keys() == {"b", "c"}
    fresh = open_storage(tmp_path / "fresh")
    written(fresh, left, clips=9)
    written(out, left, clips=9)
    assert {path: out.read_bytes(path) for path in fresh.list()} == content(fresh)
    assert without_clips(out, out.list("latents")[0], frozenset({"b", "c"}))
    assert out.list("latents") == []


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    (shard,) = written(out, [job("a")])
    whole = out.read_bytes(shard.path)
    out.write_bytes(shard.path, whole[:100])
    assert find_encoded(out, [job("a")], PRINTS).latents == {}
    written(out, [job("a")])
    assert out.read_bytes(shard.path) == whole
