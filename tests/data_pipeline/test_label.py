"""Labelling: clips on both sides of each threshold, a page that answers this machine only, labels kept at once."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pytest

from data_pipeline.label.choose import choose, strip
from data_pipeline.label.labels import LabelFile, read_labels
from data_pipeline.label.server import address, label_server
from data_pipeline.label.session import Session
from data_pipeline.recipe import RECIPES, CurateRecipe, Rule
from data_pipeline.stored import read_clips, read_manifest
from groundwork.config import load_recipe
from groundwork.errors import InputError, RunError, UsageError
from groundwork.storage import Storage, open_storage
from tests.support.synthetic import write_dataset

RULES = {"dark": Rule(score="luma_mean", below=60), "blurry": Rule(score="sharpness_score", below=30)}


@pytest.fixture
def dataset(tmp_path: Path) -> Storage:
    out = open_storage(tmp_path / "dataset")
    toy = load_recipe(CurateRecipe, "toy", folder=RECIPES)
    write_dataset(out, toy.model_copy(update={"rules": RULES}), clips=300, pictures=True)
    return out


@pytest.fixture
def page(dataset: Storage) -> Iterator[httpx.Client]:
    session = Session(dataset, name="mine", count=12)
    with label_server(session, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        with httpx.Client(base_url=address(server)) as client:
            yield client
        server.shutdown()
        thread.join()


def test_clips_are_chosen_on_both_sides_of_every_threshold(dataset: Storage) -> None:
    clips = read_clips(dataset, read_manifest(dataset))
    chosen = choose(clips, RULES, count=40)
    assert chosen == choose(clips, RULES, count=40)
    assert len(chosen) == len(set(chosen)) == 40
    ids = clips.clip_ids.to_pylist()
    index = np.array([ids.index(clip_id) for clip_id in chosen])
    assert (clips.scores["bucket_frames"][index] > 0).all()
    for rule in RULES.values():
        nearest = np.sort(clips.scores[rule.score] - (rule.below or 0))
        near = clips.scores[rule.score][index] - (rule.below or 0)
        assert ((near < 0) & (near >= nearest[nearest < 0][-12])).sum() >= 6
        assert ((near >= 0) & (near <= nearest[nearest >= 0][12])).sum() >= 6
    assert len(choose(clips, RULES, count=10_000)) == (clips.scores["bucket_frames"] > 0).sum()


def test_a_clip_is_labelled_skipped_and_taken_back_over_http(page: httpx.Client, dataset: Storage) -> None:
    state = page.get("/state").json()
    assert [entry["label"] for entry in state["keys"]] == ["good", "dark", "blurry"]
    first = state["clip"]["clip_id"]
    assert page.get(f"/picture/{first}/0").headers["content-type"] == "image/jpeg"
    state = page.post("/label", json={"clip_id": first, "labels": ["dark", "blurry"]}).json()
    assert (state["done"], state["total"]) == (1, 12)
    kept = [json.loads(line) for line in dataset.read_bytes("labels/mine.jsonl").decode().splitlines()]
    assert kept == [{"clip_id": first, "labels": ["dark", "blurry"]}]
    second = state["clip"]["clip_id"]
    state = page.post("/label", json={"clip_id": second, "labels": []}).json()
    assert state["skipped"] == 1
    assert state["clip"]["clip_id"] not in (first, second)
    state = page.post("/undo", json={}).json()
    assert (state["done"], state["clip"]["clip_id"]) == (0, first)
    assert dataset.read_bytes("labels/mine.jsonl") == b""


def test_all_labelled_is_said_and_a_later_session_goes_on(page: httpx.Client, dataset: Storage) -> None:
    for _ in range(12):
        clip_id = page.get("/state").json()["clip"]["clip_id"]
        state = page.post("/label", json={"clip_id": clip_id, "labels": ["good"]}).json()
    assert state["clip"] is None
    assert Session(dataset, name="mine", count=12).state()["done"] == 12
    assert Session(dataset, name="other", count=12).state()["done"] == 0
    assert len(read_labels(dataset, "mine")) == 12


def test_only_this_machine_and_this_page_may_ask(page: httpx.Client) -> None:
    clip_id = page.get("/state").json()["clip"]["clip_id"]
    label = {"clip_id": clip_id, "labels": ["good"]}
    assert page.get("/state", headers={"host": "evil.example:80"}).status_code == 403
    assert page.post("/label", content=json.dumps(label), headers={"content-type": "text/plain"}).status_code == 403
    assert page.post("/label", json={**label, "labels": ["pretty"]}).status_code == 400
    assert page.post("/label", json={**label, "clip_id": "../../x"}).status_code == 400
    assert page.post("/label", json=[]).status_code == 400
    assert page.get("/picture/nothing/0").status_code == 404
    assert page.get("/nowhere").status_code == 404
    assert "default-src" not in page.get("/").text
    assert page.get("/state").json()["done"] == 0


def test_a_wrong_port_name_or_file_is_an_error_for_people(dataset: Storage, tmp_path: Path) -> None:
    session = Session(dataset, name="mine", count=2)
    with label_server(session, port=0) as server:
        taken = label_server(session, port=int(server.server_address[1]))
        with pytest.raises(RunError, match="cannot be opened"):
            taken.__enter__()
    with pytest.raises(UsageError, match="plain file name"):
        LabelFile(dataset, "../x")
    with pytest.raises(InputError, match="No labels"):
        read_labels(dataset, "nobody")
    (tmp_path / "odd.jsonl").write_text('{"clip_id": "a", "labels": ["good"]}\nhello\n')
    with pytest.raises(InputError, match="line 2: not a label"):
        read_labels(dataset, str(tmp_path / "odd.jsonl"))


def test_a_strip_holds_the_pictures_of_its_span() -> None:
    frames = pa.table({"pts": [0, 1, 2, 3], "thumbnail": pa.array([b"a", None, b"b", b"c"], pa.binary())})
    assert strip(frames, start_pts=1, stop_pts=3) == [b"b"]
