"""The reader: what was written, by byte range, in an order that seeds decide; damage is told, not guessed around."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from groundwork.errors import InputError
from groundwork.latents import LatentDataset, float32, open_dataset, shuffled, to_torch
from groundwork.prefetch import prefetched
from groundwork.records import Latent, Text, text_id, to_table
from groundwork.shard import read_footer, read_rows, write_shard
from groundwork.storage import Storage, open_storage

ROOT = Path(__file__).resolve().parents[2]


def row(number: int, *, moments: bool = False) -> Latent:
    chance = np.random.default_rng(number)
    latent, text, variance = (
        chance.integers(0, 1 << 16, size, dtype=np.uint16).tobytes() for size in (16 * 3 * 4, 5 * 7, 16 * 3 * 4)
    )
    return Latent(
        f"clip{number:03d}",
        latent,
        [16, 3, 2, 2],
        text,
        [5, 7],
        tokens=3,
        caption=f"caption {number}",
        log_variance=variance if moments else b"",
        alternatives=["else"] if number % 2 else [],
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clips in two buckets, in the second with moments; one further text."""
    folder = tmp_path_factory.mktemp("encoded")
    out = open_storage(folder)
    write_shard(out, "latents/9x16x16/a.parquet", map(row, range(10)), Latent, metadata={"own": "word"})
    write_shard(out, "latents/9x32x8/b.parquet", (row(n, moments=True) for n in range(10, 20)), Latent)
    write_shard(out, "texts/t.parquet", [Text(text_id("else"), "else", b"ab" * 35, [5, 7])], Text)
    return folder


def same(dataset: LatentDataset, number: int) -> bool:
    clip, expected = dataset.read(number), row(number, moments=number >= 10)
    variance = clip.log_variance.tobytes() if clip.log_variance is not None else b""
    stored = (clip.clip_id, clip.latent.tobytes(), clip.text_embedding.tobytes(), variance)
    return stored == (expected.clip_id, expected.latent, expected.text_embedding, expected.log_variance)


def test_a_clip_is_read_as_it_was_written(written: Path) -> None:
    dataset = open_dataset(written)
    assert len(dataset) == 20
    assert all(same(dataset, number) for number in range(20))
    assert dataset.read(12).latent.shape == dataset.read(12).log_variance.shape == (16, 3, 2, 2)  # type: ignore[union-attr]
    assert dataset.captions(3) == ("caption 3", "else")
    assert dataset.read(13, caption=1).text_embedding.tobytes() == b"ab" * 35
    with pytest.raises(ValueError, match="has 1, counted from 0"):
        dataset.read(0, caption=1)


def test_a_shard_is_plain_parquet_and_rewrites_to_the_same_bytes(written: Path, tmp_path: Path) -> None:
    out = open_storage(written)
    path = "latents/9x16x16/a.parquet"
    plain = pq.read_table(out.path(path), page_checksum_verification=True)
    assert plain.to_pylist() == to_table(map(row, range(10)), Latent).to_pylist()
    footer = read_footer(out, path)
    assert footer.metadata == {"own": "word"}
    again = open_storage(tmp_path)
    write_shard(again, path, read_rows(out, path, footer, Latent, range(10)), Latent, metadata=footer.metadata)
    assert again.read_bytes(path) == out.read_bytes(path)


def test_values_are_exact_in_numpy_and_in_torch() -> None:
    values = torch.randn(3, 4).to(torch.bfloat16)
    bits = values.view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(float32(bits), values.float().numpy())
    assert torch.equal(to_torch(bits), values)


def test_an_epoch_gives_every_clip_once_in_an_order_that_seed_and_epoch_decide(written: Path) -> None:
    dataset = open_dataset(written)

    def ids(**options: int) -> list[str]:
        return [clip.clip_id for clip in dataset.iterate(**options)]

    first = ids(seed=5)
    assert sorted(first) == [clip.clip_id for clip in dataset.index]
    assert first == ids(seed=5, threads=1, prefetch=2) != ids(seed=6)
    assert first != ids(seed=5, epoch=1)
    assert [dataset.index[number].clip_id for number in shuffled(20, seed=5, epoch=0)] == first
    shares = [ids(seed=5, rank=rank, world=3) for rank in range(3)]
    assert [shares[n % 3][n // 3] for n in range(20)] == first
    assert ids(seed=5, start=15) == first[15:]
    assert [clip.clip_id for clip in dataset.iterate(seed=None)] == sorted(first)


def test_leaving_an_epoch_early_leaves_no_thread_behind(written: Path) -> None:
    for clip in open_dataset(written).iterate():
        assert clip.num_bytes
        break


def test_clips_are_read_from_an_object_store_by_range(written: Path, s3_uri: str) -> None:
    base, _, query = s3_uri.partition("?")
    remote = open_storage(f"{base}/encoded?{query}")
    for folder in ("latents", "texts"):
        remote.upload(written / folder, folder)
    dataset = open_dataset(remote)
    assert all(same(dataset, number) for number in (0, 7, 13))
    assert dataset.read(1, caption=1).text_embedding.tobytes() == b"ab" * 35
    assert len([*dataset.iterate()]) == 20


def damaged(written: Path, tmp_path: Path) -> Storage:
    return open_storage(shutil.copytree(written, tmp_path / "copy"))


def test_a_cut_off_shard_is_told_when_the_dataset_is_opened(written: Path, tmp_path: Path) -> None:
    out = damaged(written, tmp_path)
    path = "latents/9x16x16/a.parquet"
    out.write_bytes(path, out.read_bytes(path)[:-30])
    with pytest.raises(InputError, match=r"9x16x16/a\.parquet is damaged"):
        open_dataset(out)


def test_a_shard_that_changes_behind_the_index_is_told_when_it_is_read(written: Path, tmp_path: Path) -> None:
    out = damaged(written, tmp_path)
    dataset = open_dataset(out)
    out.write_bytes("latents/9x16x16/a.parquet", bytes(100_000))
    with pytest.raises(InputError, match=r"clip003.*do not agree"):
        dataset.read(3)
    out.write_bytes("latents/9x16x16/a.parquet", b"PAR1")
    with pytest.raises(InputError, match=r"clip003.*ends at byte"):
        [*dataset.iterate(seed=None, start=3)]


def test_parquet_that_is_no_shard_is_told(tmp_path: Path) -> None:
    out = open_storage(tmp_path)
    out.write_table("latents/9x16x16/a.parquet", to_table([row(0)], Latent))
    with pytest.raises(InputError, match="was not written as a shard"):
        open_dataset(out)


def test_a_shard_whose_writing_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield row(0)
        raise RuntimeError("no more")

    out = open_storage(tmp_path)
    with pytest.raises(RuntimeError, match="no more"):
        write_shard(out, "latents/a.parquet", broken(), Latent)  # type: ignore[arg-type]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_numbers_are_read_without_torch_and_ray(written: Path) -> None:
    code = (
        "import sys; from groundwork.latents import open_dataset, float32; "
        f"print(float32(next(open_dataset({str(written)!r}).iterate()).latent).shape); "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split("\n")[:2] == ["(16, 3, 2, 2)", "[]"]


def test_an_iterator_runs_ahead_and_its_errors_fall_where_they_belong() -> None:
    made, closed = [], []

    def source():  # type: ignore[no-untyped-def]
        try:
            for number in range(10):
                made.append(number)
                if number == 5:
                    raise RuntimeError("five")
                yield number
        finally:
            closed.append(True)

    ahead = prefetched(source(), depth=3)
    assert next(ahead) == 0
    assert next(ahead) == 1
    with pytest.raises(RuntimeError, match="five"):
        list(ahead)
    assert closed == [True]
    endless = prefetched(iter_forever(closed), depth=2)
    assert next(endless) == 0
    endless.close()  # type: ignore[attr-defined]
    assert closed == [True, True]


def iter_forever(closed: list[bool]):  # type: ignore[no-untyped-def]
    try:
        number = 0
        while True:
            yield number
            number += 1
    finally:
        closed.append(True)
