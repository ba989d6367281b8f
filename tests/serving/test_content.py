"""The files of a finished job: made while the frames stream by, served whole and in parts."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from PIL import Image

from groundwork.media import probe, read_frames
from groundwork.storage import open_storage
from serving import results
from serving.content import file_response, preview_response
from serving.decoder import Decoding
from serving.errors import RequestError
from serving.jobs.job import Job, JobSettings
from serving.model import DecodeModel
from serving.stills import Stills
from serving.worker import ComputeThread
from tests.support.held import Reports, hold


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def made(folder: Path, weights: Path) -> Job:
    """A job that the decoder has finished."""
    settings = JobSettings(
        model="toy",
        prompt="a bunny",
        negative_prompt="",
        num_frames=9,
        height=32,
        width=48,
        fps=8,
        steps=1,
        guidance_scale=1.0,
        seed=1,
        seconds="1",
    )
    latent = torch.randn(1, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    data, latent_sha256 = results.pack_latent(latent)
    open_storage(folder).write_bytes(results.latent_file("a"), data)
    reports, thread = Reports(), ComputeThread(threads=1)
    held = hold(settings, reports)
    asyncio.run(Decoding(DecodeModel.load(str(weights)), open_storage(folder), thread=thread)(held))
    thread.close()
    ((method, facts),) = reports.told
    assert method == "complete"
    changes = {"status": "completed", "latent_sha256": latent_sha256, "video_sha256": facts["video_sha256"]}
    return held.job.model_copy(update=changes)


@pytest.fixture
def client(folder: Path, made: Job) -> Iterator[TestClient]:
    app, storage = FastAPI(), open_storage(folder)

    @app.get("/content")
    async def content(request: Request, variant: str = "video") -> Response:
        return await file_response(storage, made, request, variant)

    @app.get("/previews/{step}")
    async def preview(step: int) -> Response:
        return await preview_response(storage, made.id, step)

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> JSONResponse:
        return JSONResponse({"code": error.code}, status_code=error.status)

    with TestClient(app) as client:
        yield client


def test_the_decoder_leaves_a_film_a_thumbnail_and_a_spritesheet(client: TestClient, folder: Path, made: Job) -> None:
    video = folder / results.video_file("a")
    assert (probe(video).width, probe(video).height, len(list(read_frames(video)))) == (48, 32, 9)
    thumbnail = Image.open(io.BytesIO(client.get("/content?variant=thumbnail").content))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (48, 32))
    sheet = Image.open(io.BytesIO(client.get("/content?variant=spritesheet").content))
    assert (sheet.format, sheet.size) == ("JPEG", (3 * 48, 3 * 32))
    latent = client.get("/content?variant=latents")
    numbers = results.unpack_latent(latent.content)
    assert results.pack_latent(numbers)[1] == made.latent_sha256 == latent.headers["etag"].strip('"')


def test_stills_come_from_all_over_a_video_in_order() -> None:
    levels = np.arange(41, dtype=np.uint8) * 6
    video = np.broadcast_to(levels[:, None, None, None], (41, 60, 640, 3))
    stills = Stills(41)
    passed = list(stills.watch(iter([video[:1], video[1:9], video[9:]])))
    assert np.array_equal(np.concatenate(passed), video)
    thumbnail = Image.open(io.BytesIO(stills.thumbnail()))
    assert (thumbnail.width, np.asarray(thumbnail).mean()) == (512, pytest.approx(20 * 6, abs=3))
    sheet = np.asarray(Image.open(io.BytesIO(stills.spritesheet())), dtype=float)
    cells = [sheet[row + 15, column + 160, 0] for row in range(0, 120, 30) for column in range(0, 1280, 320)]
    assert sheet.shape == (120, 1280, 3)
    assert cells == pytest.approx([round(cell * 40 / 15) * 6 for cell in range(16)], abs=3)


@pytest.mark.parametrize("num_frames", [1, 2, 9, 17])
def test_short_videos_have_stills_too(num_frames: int) -> None:
    stills = Stills(num_frames)
    list(stills.watch(iter([np.zeros((num_frames, 16, 16, 3), np.uint8)])))
    assert Image.open(io.BytesIO(stills.spritesheet())).width == 16 * int(np.ceil(np.sqrt(min(16, num_frames))))


@pytest.mark.parametrize(
    ("variant", "media_type"),
    [
        ("video", "video/mp4"),
        ("thumbnail", "image/webp"),
        ("spritesheet", "image/jpeg"),
        ("latents", "application/octet-stream"),
    ],
)
def test_every_file_comes_in_ranges_and_only_when_it_is_new(client: TestClient, variant: str, media_type: str) -> None:
    def get(**headers: str) -> Any:
        return client.get("/content", params={"variant": variant}, headers=headers)

    whole = get()
    etag = whole.headers["etag"]
    assert (whole.status_code, whole.headers["content-type"], len(etag)) == (200, media_type, 66)
    if variant != "latents":
        assert etag == f'"{hashlib.sha256(whole.content).hexdigest()}"'
    part = get(range="bytes=10-19")
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert get(range="bytes=-5").content == whole.content[-5:]
    assert get(range="bytes=999999999-").status_code == 416
    assert get(**{"range": "bytes=10-19", "if-range": etag}).status_code == 206
    assert get(**{"range": "bytes=10-19", "if-range": '"old"'}).content == whole.content
    for tag in (etag, f"W/{etag}", f'"old", {etag}', "*"):
        assert get(**{"if-none-match": tag}).status_code == 304
    assert get(**{"if-none-match": '"old"'}).status_code == 200


def test_what_is_not_there_is_said(client: TestClient, folder: Path) -> None:
    assert client.get("/content?variant=frames").json()["code"] == "invalid_variant"
    assert client.get("/previews/3").json()["code"] == "preview_not_found"
    open_storage(folder).write_bytes(results.preview_file("a", 3), b"jpeg")
    preview = client.get("/previews/3")
    assert (preview.content, preview.headers["content-type"]) == (b"jpeg", "image/jpeg")
    sheet = folder / results.spritesheet_file("a")
    away = sheet.rename(sheet.with_suffix(".away"))
    gone = client.get("/content?variant=spritesheet")
    assert (gone.status_code, gone.json()["code"]) == (410, "result_expired")
    away.rename(sheet)
