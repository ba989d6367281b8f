"""The workers of encoding: each clip and each text once, faults as rows, a killed one goes on to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideox.text_encoder import T5TextEncoder
from cogvideox.variants import VARIANTS, TextConfig
from data_pipeline.encode import EncodeJob
from data_pipeline.encode_workers import EmbedTexts, EncodeClips, film_rows, text_rows
from data_pipeline.failures import DAMAGED, ERROR, UNREADABLE
from data_pipeline.ingest import Source
from data_pipeline.outcome import ABORTED, FAILED, OK, Outcome
from data_pipeline.recipe import Bucket, EncodeSettings
from data_pipeline.shards import Prints, find_encoded, staged_path, write_shards
from data_pipeline.texts import TextEmbedder, distinct_texts, load_embedder
from groundwork.errors import StorageError
from groundwork.records import Latent, from_table
from groundwork.storage import Storage, open_storage
from tests.support.tiny_vlms import save_t5

ROOT = Path(__file__).resolve().parents[2]
SHORT, LONG = (Bucket(num_frames=count, height=32, width=48) for count in (9, 17))
PRINTS = Prints(encode="e", text="t")


def clips(footage: Path, names: str = "abcdef") -> tuple[list[EncodeJob], dict[str, Source]]:
    """Clips of two films and two buckets, two captions each, one of them shared by all."""
    found = [
        EncodeJob(name, 0.1 * number, 8.0, LONG if number % 3 == 2 else SHORT, (f"caption {number % 2}", "shared"))
        for number, name in enumerate(names)
    ]
    films = [Source(str(footage / name), str(footage), name) for name in ("bunny.mp4", "bikes.mp4")]
    return found, {job.clip_id: films[number % 2] for number, job in enumerate(found)}


def arguments(out: Storage, weights: Path, fingerprint: str, **changes: Any) -> dict[str, Any]:
    settings = EncodeSettings.model_validate({"weights": str(weights), **changes}).model_dump(mode="json")
    return {"out": out.uri, "variant": "toy", "settings": settings, "fingerprint": fingerprint, "device": "cpu"}


def outcomes(worker: Any, row: dict[str, str]) -> list[Outcome]:
    return [Outcome(**json.loads(one["payload"])) for one in worker(row)]


def finished(out: Storage, jobs: list[EncodeJob]) -> dict[str, bytes]:
    """The shards that the staged rows give."""
    shards, texts = write_shards(out, jobs, find_encoded(out, jobs, PRINTS), PRINTS, shard_bytes=70_000)
    return {path: out.read_bytes(path) for path in [*(shard.path for shard in shards), *texts]}


def embed(out: Storage, weights: Path, jobs: list[EncodeJob]) -> None:
    for row in text_rows(list(distinct_texts(jobs).values()), texts_per_row=2):
        assert {one.status for one in outcomes(EmbedTexts(**arguments(out, weights, "t")), row)} == {OK}


@pytest.fixture(scope="module")
def undisturbed(footage: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = open_storage(tmp_path_factory.mktemp("undisturbed"))
    jobs, video_of = clips(footage)
    (row,) = film_rows(jobs, video_of)
    found = outcomes(EncodeClips(**arguments(out, weights, "e")), row)
    assert sorted(one.key for one in found if one.status == OK) == list("abcdef")
    embed(out, weights, jobs)
    return finished(out, jobs)


def test_how_work_is_divided_changes_no_byte(
    footage: Path, weights: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = open_storage(tmp_path)
    jobs, video_of = clips(footage)
    worker = EncodeClips(**arguments(out, weights, "e"))
    for row in film_rows(jobs[::-1], video_of, clips_per_row=2):
        outcomes(worker, row)
    embed(out, weights, jobs[::-1])
    assert finished(out, jobs) == undisturbed
    rows = {row.clip_id: row for row in from_table(out.read_table("latents"), Latent)}
    assert {(row.caption, *row.alternatives) for row in rows.values()} == {
        ("caption 0", "shared"),
        ("caption 1", "shared"),
    }
    assert out.read_table("texts").column("text").to_pylist() == ["shared"]


def test_a_worker_killed_midway_does_nothing_twice_and_ends_at_the_same_bytes(
    footage: Path, weights: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = open_storage(tmp_path / "out")
    jobs, video_of = clips(footage)
    (row,) = film_rows(jobs, video_of)
    work = tmp_path / "work.json"
    work.write_text(json.dumps({"arguments": arguments(out, weights, "e"), "row": row}))
    code = (
        "import json, sys; from data_pipeline.encode_workers import EncodeClips; work = json.load(open(sys.argv[1])); "
        "EncodeClips(**work['arguments'])(work['row'])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'platform'}:{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", code, str(work)], env=environment)
    deadline = time.monotonic() + 400
    while len(out.list("work/encoded")) < 2:
        assert process.poll() is None, "the worker ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stood = {path: Path(out.path(path)).stat().st_mtime_ns for path in out.list("work/encoded")}
    assert 2 <= len(stood) < len(jobs)
    found = outcomes(EncodeClips(**arguments(out, weights, "e")), row)
    assert sorted(one.key for one in found if one.status == OK) == list("abcdef")
    assert {path: Path(out.path(path)).stat().st_mtime_ns for path in stood} == stood
    embed(out, weights, jobs)
    assert finished(out, jobs) == undisturbed


def test_what_cannot_be_read_is_a_row_and_the_others_are_encoded(footage: Path, weights: Path, tmp_path: Path) -> None:
    jobs, video_of = clips(footage, "abcd")
    (tmp_path / "broken.mp4").write_bytes((footage / "bikes.mp4").read_bytes()[:60_000])
    (tmp_path / "gone").mkdir()
    video_of["b"] = Source("broken", str(tmp_path), "broken.mp4")
    video_of["c"] = Source("s3", "nowhere://bucket", "film.mp4")
    jobs[3] = replace(jobs[3], start_seconds=1000.0)
    out = open_storage(tmp_path / "out")
    (row,) = film_rows(jobs, video_of)
    found = {one.key: one for one in outcomes(EncodeClips(**arguments(out, weights, "e")), row)}
    assert (found["a"].status, found["b"].status, found["c"].status, found["d"].status) == (OK, FAILED, FAILED, FAILED)
    assert (found["b"].reason, found["c"].reason, found["d"].reason) == (DAMAGED, UNREADABLE, DAMAGED)
    assert str(tmp_path) not in found["b"].detail
    assert find_encoded(out, jobs, PRINTS).latents.keys() == {"a"}


def test_an_autoencoder_that_fails_costs_its_batch_alone(
    footage: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, video_of = clips(footage, "abc")
    worker = EncodeClips(**arguments(open_storage(tmp_path), weights, "e", batch_pixels=2 * 9 * 32 * 48))
    encode = type(worker._encoder).encode_batch

    def failing(self: Any, batch: Any) -> Any:
        if batch[0][0].bucket == LONG:
            raise RuntimeError("out of memory")
        return encode(self, batch)

    monkeypatch.setattr(type(worker._encoder), "encode_batch", failing)
    found = {one.key: one for one in outcomes(worker, film_rows(jobs, video_of)[0])}
    assert (found["a"].status, found["b"].status) == (OK, OK)
    assert (found["c"].reason, found["c"].detail) == (ERROR, "RuntimeError: out of memory")


def test_a_full_disk_stops_the_run(
    footage: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("Cannot write.", "The disk is full.")

    jobs, video_of = clips(footage, "ab")
    out = open_storage(tmp_path)
    monkeypatch.setattr("data_pipeline.encode_workers.stage", full)
    monkeypatch.setattr("data_pipeline.encode_workers.stage_texts", full)
    told = outcomes(EncodeClips(**arguments(out, weights, "e")), film_rows(jobs, video_of)[0])
    told += outcomes(EmbedTexts(**arguments(out, weights, "t")), text_rows(["x"], texts_per_row=9)[0])
    assert {one.status for one in told} == {ABORTED}


class CountingEncoder:
    """Remembers how many texts it was asked for at once; an embedding tells its text."""

    fingerprint = "counting"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def encode(self, prompts: Any) -> Any:
        self.sizes.append(len(prompts))
        return torch.tensor([[[float(len(prompt))]] for prompt in prompts])


def test_batches_of_texts_are_always_full(weights: Path) -> None:
    encoder = CountingEncoder()
    rows = TextEmbedder(encoder, texts_per_batch=4).embed([letter * n for n, letter in enumerate("abcdef", start=1)])
    assert encoder.sizes == [4, 4]
    assert [len(row.text) for row in rows] == [1, 2, 3, 4, 5, 6]
    own = load_embedder("toy", EncodeSettings(weights=str(weights), texts_per_batch=3))
    alone, together = own.embed(["a city"]), own.embed(["a city", "a street", "cars", "rain"])
    assert alone[0] == together[0]
    text = VARIANTS["toy"].text
    assert alone[0].text_shape == [text.max_tokens, text.width]


def test_an_embedding_of_t5_does_not_depend_on_its_neighbours(tmp_path: Path) -> None:
    shutil.copytree(save_t5(tmp_path / "text_encoder"), tmp_path / "tokenizer")
    t5 = T5TextEncoder.from_folder(tmp_path, config=TextConfig("t5", 24, 32), dtype=torch.float32)
    own = TextEmbedder(t5, texts_per_batch=3)
    texts = ["a city", "a street in a city", "cars", "rain on a street"]
    together = own.embed(texts)
    assert own.embed(texts[::-1]) == together[::-1]
    assert [own.embed([text])[0] for text in texts] == together
    assert together[0].text_shape == [24, 32]


def test_a_staged_clip_is_found_by_its_job(footage: Path) -> None:
    jobs, _ = clips(footage)
    assert len({staged_path(job, "e") for job in jobs}) == len(jobs)
    assert staged_path(jobs[0], "e") == staged_path(replace(jobs[0], captions=("new words",)), "e")
