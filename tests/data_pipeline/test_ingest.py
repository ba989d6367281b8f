"""Ingest: folders, files and globs; ids from bytes; doubles found."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from data_pipeline.ingest import SOURCES_FILE, find_sources, identify
from groundwork.errors import InputError
from groundwork.storage import open_storage


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "inner").mkdir()
    for name, data in {"b.mp4": b"two", "a.MKV": b"one", "inner/c.webm": b"two", "notes.txt": b"no film"}.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def names(found: list) -> list[str]:
    return [source.name for source in found]


def test_a_folder_gives_its_films_and_those_below_in_a_fixed_order(tree: Path) -> None:
    assert names(find_sources([str(tree)])) == ["a.MKV", "b.mp4", "c.webm"]


def test_a_file_a_glob_and_a_folder_together_name_each_film_once(tree: Path) -> None:
    found = find_sources([f"{tree}/*.mp4", str(tree / "b.mp4"), f"file://{tree}/inner"])
    assert names(found) == ["b.mp4", "c.webm"]


def test_a_file_that_is_named_is_taken_whatever_its_suffix(tree: Path) -> None:
    assert names(find_sources([str(tree / "notes.txt")])) == ["notes.txt"]


def test_an_empty_folder_a_missing_one_and_no_input_are_told_apart(tree: Path) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(InputError, match="No video found"):
        find_sources([str(tree / "empty")])
    with pytest.raises(InputError, match="does not exist"):
        find_sources([str(tree / "nowhere")])
    with pytest.raises(InputError, match="No input"):
        find_sources([])


def test_the_id_is_the_hash_of_the_bytes_and_the_second_equal_file_is_a_duplicate(tree: Path, tmp_path: Path) -> None:
    a, b, c = identify(find_sources([str(tree)]), out=open_storage(tmp_path / "out"))
    assert b.video_id == hashlib.sha256(b"two").hexdigest()[:24] == c.video_id != a.video_id
    assert (a.duplicate_of, b.duplicate_of, c.duplicate_of) == ("", "", b.uri)


def test_a_file_that_changed_gets_a_new_id_in_the_next_run(tree: Path, tmp_path: Path) -> None:
    out = open_storage(tmp_path / "out")
    before = identify(find_sources([str(tree)]), out=out)
    assert len(out.read_json(SOURCES_FILE)) == 3
    (tree / "b.mp4").write_bytes(b"new")
    os.utime(tree / "b.mp4", (1, 1))
    after = identify(find_sources([str(tree)]), out=out)
    assert [x.video_id == y.video_id for x, y in zip(before, after, strict=True)] == [True, False, True]
    assert after[2].duplicate_of == ""


def test_a_name_with_brackets_is_a_file_and_not_a_pattern(tree: Path) -> None:
    (tree / "film [1].mp4").write_bytes(b"odd")
    assert names(find_sources([str(tree / "film [1].mp4")])) == ["film [1].mp4"]
    assert names(find_sources([str(tree / "?.mp4")])) == ["b.mp4"]


def test_an_object_store_is_read_like_a_disk(s3_uri: str, tmp_path: Path) -> None:
    bucket = open_storage(s3_uri).child("films")
    bucket.write_bytes("deep/a.mp4", b"one")
    bucket.write_bytes("b.mp4", b"two")
    address, _, query = bucket.uri.partition("?")
    assert names(find_sources([bucket.uri])) == ["b.mp4", "a.mp4"]
    for given in (f"{address}/b.mp4?{query}", f"{address}/*b.mp4?{query}"):
        (found,) = identify(find_sources([given]), out=open_storage(tmp_path))
        assert found.video_id == hashlib.sha256(b"two").hexdigest()[:24]
        assert found.uri == f"{address}/b.mp4"
        assert found.storage.read_bytes(found.name) == b"two"
