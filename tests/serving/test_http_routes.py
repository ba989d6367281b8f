"""Routes without Ray: what a client sees for good and bad requests, in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cogvideox.variants import TOY
from groundwork.errors import RunError
from groundwork.storage import open_storage
from serving import results
from serving.app import create_app
from serving.card import ModelCard
from serving.desk import Desk, Rules
from serving.jobs.job import Lease
from serving.jobs.sql import SqlJobStore
from serving.keys import ApiKey, Gate, new_key
from serving.scheduling import Limits
from tests.support.local_service import LocalJobs, LocalPrompts

RULES = Rules(limits=Limits(max_queued_jobs=3), webhooks=True, private_addresses=True)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[LocalJobs]:
    store = SqlJobStore(tmp_path / "jobs.sqlite")
    yield LocalJobs(store)
    store.close()


@pytest.fixture
def client(jobs: LocalJobs, tmp_path: Path) -> TestClient:
    card = ModelCard.of(TOY, sizes=(), steps=None, max_steps=100)
    desk = Desk(jobs, LocalPrompts(), card=card, storage=open_storage(tmp_path / "results"), rules=RULES)
    return TestClient(create_app(desk), raise_server_exceptions=False)


def finish(jobs: LocalJobs, tmp_path: Path, video_id: str, *, data: bytes | None) -> None:
    for stage in ("denoise", "decode"):
        job = jobs.store.claim(stage, worker="w", lease_seconds=10)  # type: ignore[arg-type]
        assert job is not None
        assert job.id == video_id
        lease = Lease(job_id=job.id, epoch=job.epoch)
        if stage == "denoise":
            jobs.store.hand_over(lease, latent_sha256="l", seconds=1)
    if data is not None:
        open_storage(tmp_path / "results").write_bytes(results.video_file(video_id), data)
    jobs.store.complete(lease, video_sha256="v", seconds=1)


def test_json_and_multipart_make_the_same_job(client: TestClient) -> None:
    fields = {"prompt": "a bunny", "size": "144x96", "seconds": "1", "seed": 5, "guidance_scale": 2.5}
    by_json = client.post("/v1/videos", json=fields).json()
    by_form = client.post("/v1/videos", files={name: (None, str(value)) for name, value in fields.items()}).json()
    for answer in (by_json, by_form):
        assert (answer["object"], answer["status"], answer["progress"]) == ("video", "queued", 0)
        assert answer["x"]["num_frames"] == 9
    assert by_json["x"] | {"queue_position": 0} == by_form["x"] | {"queue_position": 0}


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_field", "prompt"),
        ({"prompt": ""}, 400, "invalid_value", "prompt"),
        ({"prompt": 5}, 400, "invalid_value", "prompt"),
        ({"prompt": "w " * 33}, 400, "prompt_too_long", "prompt"),
        ({"prompt": "w" * 32_001}, 400, "prompt_too_long", "prompt"),
        ({"prompt": "x", "negative_prompt": "w " * 33}, 400, "prompt_too_long", "prompt"),
        ({"prompt": "x", "size": "1280x720"}, 400, "invalid_size", "size"),
        ({"prompt": "x", "seconds": "soon"}, 400, "invalid_seconds", "seconds"),
        ({"prompt": "x", "seconds": ["1"]}, 400, "invalid_seconds", "seconds"),
        ({"prompt": "x", "num_frames": "many"}, 400, "invalid_frames", "num_frames"),
        ({"prompt": "x", "num_frames": 10}, 400, "invalid_frames", "num_frames"),
        ({"prompt": "x", "num_inference_steps": 0}, 400, "invalid_value", "num_inference_steps"),
        ({"prompt": "x", "num_inference_steps": 101}, 400, "invalid_steps", "num_inference_steps"),
        ({"prompt": "x", "guidance_scale": "NaN"}, 400, "invalid_value", "guidance_scale"),
        ({"prompt": "x", "seed": -1}, 400, "invalid_value", "seed"),
        ({"prompt": "x", "seed": 2**63}, 400, "invalid_value", "seed"),
        ({"prompt": "x", "fps": 0}, 400, "invalid_value", "fps"),
        ({"prompt": "x", "model": "sora-2"}, 404, "model_not_found", "model"),
        ({"prompt": "x", "lora": "orbit"}, 400, "unsupported_field", "lora"),
        ({"prompt": "x", "loras": [{"name": "orbit"}]}, 404, "lora_not_found", "loras"),
        ({"prompt": "x", "enhance_prompt": True}, 400, "unsupported_field", "enhance_prompt"),
        ({"prompt": "x", "deadline_s": 0}, 400, "invalid_value", "deadline_s"),
        ({"prompt": "x", "webhook": {"url": "file:///etc/passwd"}}, 400, "url_refused", "webhook.url"),
        ({"prompt": "x", "webhook": {"url": "http://a", "x": 1}}, 400, "unsupported_field", "webhook.x"),
        ({"prompt": "x", "input_reference": {"image_url": "data:,no"}}, 400, "reference_unreadable", "input_reference"),
        ({"prompt": "x", "metadata": {"k": "v" * 513}}, 400, "invalid_value", "metadata.k"),
        (["prompt"], 400, "invalid_json", None),
    ],
)
def test_a_bad_request_is_answered_with_code_and_field(
    client: TestClient, body: Any, status: int, code: str, param: str | None
) -> None:
    answer = client.post("/v1/videos", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert error["message"]
    assert client.get("/v1/videos").json()["data"] == []


def test_what_is_not_json_or_too_large_or_a_file_is_refused(client: TestClient) -> None:
    kind = {"content-type": "application/json"}
    assert client.post("/v1/videos", content=b"{", headers=kind).json()["error"]["code"] == "invalid_json"
    assert client.post("/v1/videos", content=b"\xff\xfe", headers=kind).json()["error"]["code"] == "invalid_json"
    large = client.post("/v1/videos", content=b" " * (90 << 20), headers=kind)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "input_too_large")
    surrogate = client.post("/v1/videos", content=rb'{"prompt": "\ud800"}', headers=kind)
    assert (surrogate.status_code, surrogate.json()["error"]["param"]) == (400, "prompt")
    for name, data, code in (
        ("input_reference", b"png", "reference_unreadable"),
        ("input_reference", b"", "reference_unreadable"),
        ("attachment", b"png", "unsupported_field"),
    ):
        file = client.post("/v1/videos", data={"prompt": "x"}, files={name: ("a.png", data)})
        error = file.json()["error"]
        assert (file.status_code, error["code"], error["param"]) == (400, code, name)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/videos/video_nope", 404, "video_not_found"),
        ("DELETE", "/v1/videos/video_nope", 404, "video_not_found"),
        ("POST", "/v1/videos/video_nope/cancel", 404, "video_not_found"),
        ("GET", "/v1/videos/video_nope/content", 404, "video_not_found"),
        ("GET", "/v1/videos/video_nope/events", 404, "video_not_found"),
        ("DELETE", "/v1/videos/..%2f..%2fetc", 404, "not_found"),
        ("DELETE", "/v1/videos/%2e%2e", 404, "video_not_found"),
        ("GET", "/v1/videos?after=video_nope", 404, "video_not_found"),
        ("GET", "/v1/videos?limit=101", 400, "invalid_value"),
        ("GET", "/v1/videos?order=up", 400, "invalid_value"),
        ("GET", "/v1/models/sora-2", 404, "model_not_found"),
        ("GET", "/v2/videos", 404, "not_found"),
        ("PUT", "/v1/videos", 405, "method_not_allowed"),
    ],
)
def test_unknown_things_are_answered_in_the_same_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_full_queue_answers_429_and_when_to_come_back(client: TestClient) -> None:
    for _ in range(3):
        assert client.post("/v1/videos", json={"prompt": "x"}).status_code == 200
    answer = client.post("/v1/videos", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after-ms"]) > 0


def test_content_of_an_unfinished_video_is_a_conflict_that_is_not_retried(client: TestClient) -> None:
    video_id = client.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    answer = client.get(f"/v1/videos/{video_id}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "video_not_ready")
    assert answer.headers["x-should-retry"] == "false"


def test_deleting_removes_the_files_too(client: TestClient, jobs: LocalJobs, tmp_path: Path) -> None:
    video_id = client.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    finish(jobs, tmp_path, video_id, data=b"mp4")
    assert client.get(f"/v1/videos/{video_id}/content").content == b"mp4"
    assert client.delete(f"/v1/videos/{video_id}").json() == {
        "id": video_id,
        "object": "video.deleted",
        "deleted": True,
    }
    assert not list((tmp_path / "results").rglob("*.mp4"))


def test_a_file_that_is_gone_is_410(client: TestClient, jobs: LocalJobs, tmp_path: Path) -> None:
    video_id = client.post("/v1/videos", json={"prompt": "x"}).json()["id"]
    finish(jobs, tmp_path, video_id, data=None)
    answer = client.get(f"/v1/videos/{video_id}/content")
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "result_expired")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [(RunError("a secret path"), 503, "store_unavailable"), (ConnectionError("a secret path"), 500, "internal")],
)
def test_what_fails_here_is_said_without_its_secrets(
    client: TestClient, jobs: LocalJobs, failure: Exception, status: int, code: str
) -> None:
    jobs.broken = failure
    answer = client.get("/v1/videos")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text
    assert client.get("/healthz").status_code == 200


def test_the_service_is_ready_once_every_stage_has_a_worker(client: TestClient, jobs: LocalJobs) -> None:
    jobs.waiting_for = ["decode"]
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_capacity")
    jobs.waiting_for = []
    assert client.get("/readyz").json() == {"status": "ok", "queued": 0, "in_progress": 0}


def test_the_list_pages_and_the_model_tells_its_limits(client: TestClient) -> None:
    ids = [client.post("/v1/videos", json={"prompt": str(n)}).json()["id"] for n in range(3)]
    first = client.get("/v1/videos", params={"limit": 2, "order": "asc"}).json()
    assert ([v["id"] for v in first["data"]], first["has_more"], first["last_id"]) == (ids[:2], True, ids[1])
    rest = client.get("/v1/videos", params={"after": first["last_id"], "order": "asc"}).json()
    assert ([v["id"] for v in rest["data"]], rest["has_more"]) == (ids[2:], False)
    model = client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["x"]["sizes"], model["x"]["num_frames"]) == ("toy", ["144x96"], [9, 17])


def test_the_page_and_the_openapi_document_are_served(client: TestClient) -> None:
    assert "CogVideoX playground" in client.get("/").text
    paths = client.get("/openapi.json").json()["paths"]
    assert "multipart/form-data" in paths["/v1/videos"]["post"]["requestBody"]["content"]


def test_a_quote_tells_what_a_video_costs_and_makes_none(client: TestClient, jobs: LocalJobs) -> None:
    body = {"prompt": "x", "num_frames": 9, "deadline_s": 100}
    quote = client.post("/v1/videos/quote", json=body).json()
    assert (quote["object"], quote["queue_position"], quote["deadline_met"]) == ("video.quote", 0, True)
    assert quote["denoise_pflop"] > 0
    assert client.get("/v1/videos").json()["data"] == []
    for _ in range(3):
        client.post("/v1/videos", json={"prompt": "y"})
    assert client.post("/v1/videos", json=body).status_code == 429
    assert client.post("/v1/videos", json=body | {"quote_id": quote["id"]}).status_code == 200
    counted = client.get("/metrics").text
    assert 'cogvideox_serving_jobs_refused_total{code="queue_full"} 1.0' in counted
    assert "cogvideox_serving_jobs_queued 4.0" in counted


def test_one_idempotency_key_makes_one_video(client: TestClient) -> None:
    key = {"idempotency-key": "k"}
    first = client.post("/v1/videos", json={"prompt": "x"}, headers=key)
    again = client.post("/v1/videos", json={"prompt": "x"}, headers=key)
    assert first.json()["id"] == again.json()["id"]
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    other = client.post("/v1/videos", json={"prompt": "z"}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_key_reused")
    assert other.headers["x-should-retry"] == "false"


def test_a_retry_of_the_official_client_makes_no_second_video(client: TestClient) -> None:
    made = [
        client.post("/v1/videos", json={"prompt": "x"}, headers={"x-stainless-retry-count": count}).json()["id"]
        for count in ("0", "1", "2")
    ]
    assert len(set(made)) == 1


def test_a_remix_keeps_everything_but_the_prompt(client: TestClient) -> None:
    fields = {"prompt": "x", "num_frames": 9, "seed": 5, "guidance_scale": 2.5, "scheduler": "dpm"}
    first = client.post("/v1/videos", json=fields).json()
    remix = client.post(f"/v1/videos/{first['id']}/remix", json={"prompt": "y"}).json()
    assert (remix["prompt"], remix["remixed_from_video_id"]) == ("y", first["id"])
    changing = {"queue_position", "eta_seconds"}
    assert {k: v for k, v in remix["x"].items() if k not in changing} == {
        k: v for k, v in first["x"].items() if k not in changing
    }
    assert client.post("/v1/videos/video_nope/remix", json={"prompt": "y"}).status_code == 404
    assert (
        client.post(f"/v1/videos/{first['id']}/remix", json={"prompt": "z", "seed": 1}).json()["error"]["param"]
        == "seed"
    )


def test_keys_keep_videos_apart(jobs: LocalJobs, client: TestClient, tmp_path: Path) -> None:
    secrets = {name: new_key() for name in ("ann", "bob")}
    gate = Gate([ApiKey(name=name, sha256=digest) for name, (_, digest) in secrets.items()])
    card = ModelCard.of(TOY, sizes=(), steps=None, max_steps=100)
    desk = Desk(jobs, LocalPrompts(), card=card, storage=open_storage(tmp_path / "results"), rules=RULES)
    locked = TestClient(create_app(desk, gate), raise_server_exceptions=False)
    ann, bob = ({"authorization": f"Bearer {secret}"} for secret, _ in secrets.values())
    video = locked.post("/v1/videos", json={"prompt": "x"}, headers=ann).json()["id"]
    assert locked.get(f"/v1/videos/{video}", headers=ann).status_code == 200
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/content"),
        ("GET", "/events"),
        ("GET", "/previews/1"),
    ):
        assert locked.request(method, f"/v1/videos/{video}{path}", headers=bob).status_code == 404
        assert locked.request(method, f"/v1/videos/{video}{path}").status_code == 401
    assert locked.get("/v1/videos", headers=bob).json()["data"] == []
    assert [locked.get(path).status_code for path in ("/healthz", "/", "/metrics")] == [200, 200, 200]
    assert jobs.store.get(video).terms.owner == "ann"
