"""One set of promises, kept on a local disk and on an S3 server."""

from __future__ import annotations

import pickle
import subprocess
import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from groundwork.errors import StorageError
from groundwork.storage import Storage, open_storage


@pytest.fixture(params=["local", "file-uri", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return open_storage(tmp_path / "a folder")
    if request.param == "file-uri":
        return open_storage(f"file://{tmp_path}/folder")
    return open_storage(request.getfixturevalue("s3_uri")).child(uuid.uuid4().hex)


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write_bytes("a/b.bin", b"one")
    storage.write_bytes("a/b.bin", b"two")
    assert storage.read_bytes("a/b.bin") == b"two"
    assert storage.size("a/b.bin") == 3
    assert storage.exists("a/b.bin")
    assert not storage.exists("a/c.bin")


def test_lists_are_sorted_relative_and_filtered(storage: Storage) -> None:
    for name in ("z.json", "a/2.parquet", "a/1.parquet", "b/c/3.parquet"):
        storage.write_bytes(name, b"x")
    assert storage.list() == ["a/1.parquet", "a/2.parquet", "b/c/3.parquet", "z.json"]
    assert storage.list("a") == ["a/1.parquet", "a/2.parquet"]
    assert storage.list(suffix=".json") == ["z.json"]
    assert storage.list("nowhere") == []


def test_tables_round_trip_and_equal_tables_have_equal_bytes(storage: Storage) -> None:
    table = pa.table({"clip_id": ["a", "b"], "score": [1.0, None]})
    storage.write_table("t/1.parquet", table)
    storage.write_table("t/2.parquet", table)
    assert storage.read_table("t/1.parquet").equals(table)
    assert storage.read_table("t").num_rows == 4
    assert storage.checksum("t/1.parquet") == storage.checksum("t/2.parquet")


def test_json_round_trips(storage: Storage) -> None:
    storage.write_json("m.json", {"b": [1, 2], "a": None})
    assert storage.read_json("m.json") == {"a": None, "b": [1, 2]}


def test_deleting_twice_is_no_error(storage: Storage) -> None:
    storage.write_bytes("a/b", b"x")
    storage.delete("a/b")
    storage.delete("a/b")
    storage.write_bytes("c/d", b"x")
    storage.delete_tree("c")
    storage.delete_tree("c")
    assert storage.list() == []


def test_a_folder_goes_up_and_comes_down(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "one").write_bytes(b"1")
    (source / "deep" / "two").write_bytes(b"2")
    storage.upload(source, "copy")
    assert storage.list("copy") == ["copy/deep/two", "copy/one"]
    with storage.local_path("copy") as folder:
        assert (folder / "deep" / "two").read_bytes() == b"2"
    with storage.local_path("copy/deep") as folder:  # without a folder inside
        assert [path.name for path in folder.iterdir()] == ["two"]


def test_a_missing_file_is_an_error_that_names_it(storage: Storage) -> None:
    with pytest.raises(StorageError, match=r"nowhere\.bin.*not found"):
        storage.read_bytes("nowhere.bin")
    with pytest.raises(StorageError, match="No Parquet file"):
        storage.read_table("nothing")


def test_a_damaged_table_is_an_error_that_names_it(storage: Storage) -> None:
    storage.write_bytes("t.parquet", b"PAR1 this is not one")
    with pytest.raises(StorageError, match="damaged"):
        storage.read_table("t.parquet")


def test_paths_cannot_climb_out(storage: Storage) -> None:
    with pytest.raises(ValueError, match=r"\.\."):
        storage.read_bytes("../secret")


def test_storage_travels_to_a_worker(storage: Storage) -> None:
    storage.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("x") == b"1"


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(StorageError, match="carrier-pigeon"):
        open_storage("carrier-pigeon://roof").list()


def test_a_full_disk_is_said_and_leaves_the_old_content(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small disk needs root")
    try:
        storage = open_storage(disk)
        storage.write_bytes("file", b"old")
        with pytest.raises(StorageError, match="free space"):
            storage.write_bytes("file", bytes(1 << 20))
        assert storage.read_bytes("file") == b"old"
        assert storage.list() == ["file"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
