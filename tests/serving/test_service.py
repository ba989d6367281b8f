"""The service on a real Ray Serve: round trips with the official client, equal seeds, killed workers, restarts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from groundwork.config import load_recipe
from groundwork.errors import RunError
from groundwork.media import probe, read_frames
from groundwork.ray_session import ray_session
from serving.config import CONFIGS, ServingConfig
from serving.jobs.sql import SqlJobStore
from serving.service import running

pytestmark = pytest.mark.timeout(300)


LONG = {"seed": 21, "num_inference_steps": 60}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serving-state")


@pytest.fixture(scope="module")
def config(state: Path) -> ServingConfig:
    smoke = load_recipe(ServingConfig, "smoke", folder=CONFIGS)
    return smoke.model_copy(update={"state_dir": str(state), "lease_seconds": 3.0})


class Service:
    """The service under test, which can be stopped and started again on the same state folder."""

    def __init__(self, config: ServingConfig, weights: Path) -> None:
        self._config, self._weights = config, weights
        self._open = ExitStack()
        self.url = ""

    def start(self) -> None:
        port = free_port()
        self.url = self._open.enter_context(running(self._config, weights=str(self._weights), port=port))

    def stop(self) -> None:
        self._open.close()


@pytest.fixture(scope="module")
def service(weights: Path, config: ServingConfig) -> Iterator[Service]:
    with ray_session():
        service = Service(config, weights)
        service.start()
        yield service
        service.stop()


@pytest.fixture
def url(service: Service) -> str:
    return service.url


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(api_key="any", base_url=f"{url}/v1", max_retries=0)


@pytest.fixture(scope="module")
def undisturbed(service: Service) -> dict[str, Any]:
    """What the job LONG gives when nobody is killed."""
    return dict(wait_for(service.url, create(service.url, **LONG)["id"])["x"])


def create(url: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/videos", json={"prompt": "a bunny in a meadow", "num_frames": 9, **fields})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def wait_for(url: str, video_id: str, *, step: int | None = None, seconds: float = 90) -> dict[str, Any]:
    """The video once it is final, or once it has finished `step` steps."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        video = httpx.get(f"{url}/v1/videos/{video_id}").json()
        if video["status"] in ("completed", "failed") or (step is not None and video["x"]["step"] >= step):
            return dict(video)
        time.sleep(0.1)
    raise AssertionError(f"{video_id} is not there after {seconds} s: {video}")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_official_client_makes_fetches_lists_and_deletes_a_video(client: openai.OpenAI, tmp_path: Path) -> None:
    video = client.videos.create_and_poll(
        prompt="a bunny in a meadow",
        model="toy",
        size="144x96",  # type: ignore[arg-type]
        seconds="1",
        extra_body={"seed": 3, "num_inference_steps": 3},
    )
    assert (video.status, video.progress, video.size, video.seconds) == ("completed", 100, "144x96", "1")
    assert video.model_extra is not None
    assert video.model_extra["x"]["steps"] == 3

    path = tmp_path / "video.mp4"
    client.videos.download_content(video.id).write_to_file(path)
    header = probe(path)
    assert (header.width, header.height, header.fps, header.codec) == (144, 96, 8.0, "h264")
    assert len(list(read_frames(path))) == 9

    other = client.videos.create(prompt="another", extra_body={"num_frames": 9})
    listed = [item.id for item in client.videos.list(limit=1)]
    assert listed[:2] == [other.id, video.id]
    assert client.videos.retrieve(video.id).id == video.id

    deleted = client.videos.delete(video.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (video.id, "video.deleted", True)
    with pytest.raises(openai.NotFoundError) as gone:
        client.videos.retrieve(video.id)
    assert gone.value.code == "video_not_found"


@pytest.mark.parametrize("major", ["2", "3"])
def test_both_majors_of_the_official_client_see_the_same(url: str, major: str) -> None:
    story = Path(__file__).parents[1] / "support" / "client_story.py"
    path = Path(sys.prefix) / "openai-2" if major == "2" else None
    if path is not None and not path.is_dir():
        pytest.skip(f"there is no client of version 2 in {path}: make test puts it there")
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    done = subprocess.run(
        [sys.executable, str(story), url], env=environment, capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert seen.pop("version").startswith(f"{major}.")
    starts = [start[:8] for start in seen.pop("files")]
    assert (starts[0], starts[1], starts[2][:4]) == ("00000020", "52494646", "ffd8")
    assert seen == {
        "status": "completed",
        "metadata": {"made": "by a test"},
        "newest": True,
        "remixed": ["completed", True],
        "deleted": True,
        "gone": [404, "video_not_found"],
        "refused": [400, "invalid_size"],
    }


def test_content_comes_in_ranges_and_with_the_sha256_as_etag(url: str) -> None:
    video = wait_for(url, create(url, num_inference_steps=1)["id"])
    content = f"{url}/v1/videos/{video['id']}/content"
    whole = httpx.get(content)
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["etag"] == f'"{video["x"]["video_sha256"]}"'
    part = httpx.get(content, headers={"range": "bytes=100-199"})
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    assert httpx.get(content, headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    assert httpx.get(content, params={"variant": "poster"}).json()["error"]["code"] == "invalid_variant"
    starts = {"thumbnail": b"RIFF", "spritesheet": b"\xff\xd8"}
    for variant, start in starts.items():
        picture = httpx.get(content, params={"variant": variant})
        assert (picture.status_code, picture.content[: len(start)]) == (200, start)
    latents = httpx.get(content, params={"variant": "latents"})
    assert latents.headers["etag"] == f'"{video["x"]["latent_sha256"]}"'


def test_equal_seeds_give_equal_latents_and_files_and_other_seeds_do_not(url: str) -> None:
    made = [create(url, seed=seed, num_inference_steps=2)["id"] for seed in (11, 11, 12)]
    first, again, other = (wait_for(url, video_id)["x"] for video_id in made)
    assert first["latent_sha256"] == again["latent_sha256"] != other["latent_sha256"]
    assert first["video_sha256"] == again["video_sha256"]


def test_events_tell_the_whole_story_once_and_replay_from_any_point(url: str) -> None:
    video_id = create(url, num_inference_steps=3)["id"]
    story = read_events(url, video_id)
    assert [number for number, _ in story] == list(range(1, len(story) + 1))
    names = [name for _, name in story]
    told = "queued started progress progress progress denoised decoding completed"
    assert [name for name in names if name != "checkpoint"] == told.split()
    assert names.count("checkpoint") == 1
    assert names.index("checkpoint") > 3  # stored while the third step is computed
    assert read_events(url, video_id, last_event_id=4) == story[4:]
    assert read_events(url, video_id, last_event_id=len(story)) == []
    assert httpx.get(f"{url}/v1/videos/nothing/events").status_code == 404


def read_events(url: str, video_id: str, *, last_event_id: int = 0) -> list[tuple[int, str]]:
    found, number = [], 0
    headers = {"last-event-id": str(last_event_id)}
    with httpx.stream("GET", f"{url}/v1/videos/{video_id}/events", headers=headers, timeout=60) as stream:
        for line in stream.iter_lines():
            key, _, value = line.partition(": ")
            number = int(value) if key == "id" else number
            if key == "event":
                found.append((number, value))
    return found


def test_polling_says_when_to_ask_again(url: str) -> None:
    video_id = create(url)["id"]
    answer = httpx.get(f"{url}/v1/videos/{video_id}")
    assert 500 <= int(answer.headers["openai-poll-after-ms"]) <= 15_000
    assert httpx.get(f"{url}/v1/videos/{video_id}/content").status_code in (200, 409)
    wait_for(url, video_id)


def test_cancelling_frees_the_denoiser_within_a_step(url: str) -> None:
    long = create(url, num_inference_steps=200, num_frames=17)["id"]
    wait_for(url, long, step=1)
    cancelled = httpx.post(f"{url}/v1/videos/{long}/cancel").json()
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    assert cancelled["x"]["step"] < 200
    assert wait_for(url, create(url, num_inference_steps=1)["id"], seconds=30)["status"] == "completed"
    assert httpx.get(f"{url}/v1/videos/{long}").json()["x"]["step"] < 100


def test_a_killed_denoiser_costs_no_job_and_changes_no_bit(url: str, state: Path, undisturbed: dict[str, Any]) -> None:
    video_id = create(url, **LONG)["id"]
    wait_for(url, video_id, step=8)
    store = SqlJobStore(state / "jobs.sqlite")
    worker = store.get(video_id).worker
    store.close()
    assert worker is not None
    os.kill(int(worker.split(":")[1]), signal.SIGKILL)
    video = wait_for(url, video_id)
    assert video["status"] == "completed"
    assert video["x"]["attempt"] == 2
    assert 2 <= video["x"]["resumed_from_step"] < 60
    assert video["x"]["latent_sha256"] == undisturbed["latent_sha256"]
    assert video["x"]["video_sha256"] == undisturbed["video_sha256"]
    assert not list((state / "results" / "jobs" / video_id / "states").rglob("*.safetensors"))


def test_a_second_service_on_the_same_ray_is_refused_and_harms_nothing(
    service: Service, weights: Path, config: ServingConfig
) -> None:
    with (
        pytest.raises(RunError, match="runs on this Ray already"),
        running(config, weights=str(weights), port=free_port()),
    ):
        pass
    assert httpx.get(f"{service.url}/readyz").is_success


def test_jobs_go_on_when_the_service_is_stopped_and_started_again(
    service: Service, undisturbed: dict[str, Any]
) -> None:
    begun, queued = create(service.url, **LONG)["id"], create(service.url, num_inference_steps=1)["id"]
    wait_for(service.url, begun, step=5)
    service.stop()
    service.start()
    video = wait_for(service.url, begun)
    assert video["status"] == "completed"
    assert 5 <= video["x"]["resumed_from_step"] < 60  # nothing is repeated after an orderly stop
    assert video["x"]["latent_sha256"] == undisturbed["latent_sha256"]
    assert wait_for(service.url, queued)["status"] == "completed"


def test_the_page_makes_and_shows_a_video_in_a_browser(url: str) -> None:
    """Keyboard alone: prompt, Ctrl-Enter, a preview while it is made, a player that plays, delete."""
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no Chromium is installed: the page is not looked at")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        page.wait_for_selector("select[name=size] option", state="attached")
        page.fill("textarea[name=prompt]", "a bunny seen by a browser")
        page.fill("input[name=num_inference_steps]", "40")
        page.select_option("select[name=num_frames]", "9")
        page.press("textarea[name=prompt]", "Control+Enter")
        card = page.locator("#videos li").first
        sync_api.expect(card).to_contain_text("a bunny seen by a browser")
        sync_api.expect(card.locator("img")).to_be_visible(timeout=30_000)
        sync_api.expect(card.locator("video")).to_be_visible(timeout=60_000)
        page.wait_for_function("document.querySelector('#videos video').readyState >= 2", timeout=30_000)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        made = page.locator("#videos li").count()
        card.get_by_role("button", name="Delete").press("Enter")
        sync_api.expect(page.locator("#videos li")).to_have_count(made - 1)
        assert wrong == []
        browser.close()
