"""A job's way through the denoiser: what it starts from, wears and shows; stopped and resumed to the bit."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogvideox import CogVideoX
from cogvideox.autoencoder import Autoencoder
from cogvideox.ranks import Groups, Split
from cogvideox.text_encoder import HashTextEncoder
from cogvideox.trajectory import Settings
from cogvideox.variants import TOY, TOY_I2V, Variant
from cogvideox.weights import save_pipeline
from groundwork.errors import RunError, WeightsError
from groundwork.media import write_video
from groundwork.storage import open_storage
from serving import results
from serving.adapters import Adapters
from serving.denoiser import Denoising
from serving.errors import RequestError
from serving.fingerprint import content_sha256
from serving.jobs.job import Adapter, JobSettings, Reference
from serving.model import DenoiseModel
from serving.references import checked
from serving.stepper import InThread, Stepper
from serving.worker import ComputeThread, Released
from tests.support.denoisers import random_denoiser
from tests.support.held import Reports, hold

SMALL = {"num_frames": 9, "height": 32, "width": 48, "steps": 4, "guidance_scale": 2.0}


class Prompts:
    """The toy's text encoder."""

    async def encode(self, prompt: str) -> Tensor:
        return HashTextEncoder(TOY.text).encode([prompt])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Path]:
    """A folder of random weights of a toy variant."""
    made: dict[str, Path] = {}

    def of(variant: Variant) -> Path:
        if variant.name not in made:
            torch.manual_seed(0)
            made[variant.name] = save_pipeline(
                tmp_path_factory.mktemp("weights") / variant.name,
                variant=variant,
                denoiser=random_denoiser(variant.denoiser),
                autoencoder=Autoencoder(variant.autoencoder),
            )
        return made[variant.name]

    return of


@pytest.fixture
def thread() -> Iterator[ComputeThread]:
    thread = ComputeThread(threads=1)
    yield thread
    thread.close()


@pytest.fixture
def run(tmp_path: Path, thread: ComputeThread) -> Callable[..., tuple[str, Reports]]:
    """Take a job to its end, or to `stop_at` and from there to its end; its latent's sha256, and what was told."""
    storage = open_storage(tmp_path / "results")

    def go(model: DenoiseModel, settings: JobSettings, *, stop_at: int | None = None, **terms: Any) -> Any:
        compute = InThread(Stepper(model), thread)
        work = Denoising(compute, storage, text=Prompts(), thread=thread, checkpoint_every_steps=100)
        checkpoint, reports = None, Reports(stop_at)
        if stop_at is not None:
            with pytest.raises(Released):
                asyncio.run(work(held := hold(settings, reports, **terms)))
            checkpoint, reports = held.checkpoint, Reports()
        asyncio.run(work(hold(settings, reports, checkpoint=checkpoint, **terms)))
        return reports.told[-1][1]["latent_sha256"], reports

    return go


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)


def with_image(settings: JobSettings, tmp_path: Path) -> JobSettings:
    """Store an image as the job's reference."""
    out = io.BytesIO()
    Image.fromarray(picture()).save(out, "PNG")
    return referring(settings, out.getvalue(), tmp_path)


def with_video(settings: JobSettings, tmp_path: Path, *, strength: float) -> JobSettings:
    """Store a video as the job's reference."""
    write_video(tmp_path / "clip.mp4", np.stack([picture()] * 9), fps=settings.fps)
    return referring(settings, (tmp_path / "clip.mp4").read_bytes(), tmp_path, strength=strength)


def referring(settings: JobSettings, data: bytes, tmp_path: Path, **more: Any) -> JobSettings:
    open_storage(tmp_path / "results").write_bytes(results.reference_file("a"), data)
    file = checked(data)
    return settings.model_copy(update={"reference": Reference(kind=file.kind, sha256=file.sha256, **more)})


@pytest.fixture
def small(settings: JobSettings) -> JobSettings:
    return settings.model_copy(update=SMALL)


def test_an_image_becomes_the_video_that_the_library_makes_of_it(
    weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    model, settings = DenoiseModel.load(str(weights(TOY_I2V))), with_image(small, tmp_path)
    sha256, _ = run(model, settings)
    whole = CogVideoX.from_pretrained(weights(TOY_I2V))
    guidance = model.guidance(settings)
    asked = Settings(num_frames=9, height=32, width=48, num_steps=4, seed=7, sampler="ddim", guidance=guidance)
    trajectory = whole.trajectory(settings.prompt, settings=asked, image=torch.from_numpy(picture()))
    state = trajectory.start()
    while not state.finished:
        state = trajectory.step(state)
    assert sha256 == results.pack_latent(trajectory.latent(state))[1]
    assert run(model, settings, stop_at=2)[0] == sha256
    with pytest.raises(RequestError, match="send an image"):
        run(model, small)


def test_a_video_is_redrawn_as_far_as_its_strength_says(
    weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    model = DenoiseModel.load(str(weights(TOY)))
    weak, half = (with_video(small, tmp_path, strength=strength) for strength in (0.25, 0.8))
    assert len({run(model, settings)[0] for settings in (small, weak, half)}) == 3
    sha256, reports = run(model, half, stop_at=1)
    assert ("resumed", {"step": 2}) in reports.told  # the step that was under way when it was told
    assert sha256 == run(model, half)[0]
    by_dpm = half.model_copy(update={"sampler": "dpm"})
    assert run(model, by_dpm, stop_at=1)[0] == run(model, by_dpm)[0] != sha256


def test_a_reference_that_changed_or_broke_fails_its_job_alone(
    weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    model, settings = DenoiseModel.load(str(weights(TOY))), with_video(small, tmp_path, strength=0.5)
    with pytest.raises(RequestError, match="ends before"):
        run(model, settings.model_copy(update={"num_frames": 17}))
    open_storage(tmp_path / "results").write_bytes(results.reference_file("a"), b"another")
    with pytest.raises(RunError, match="not the one"):
        run(model, settings)
    assert run(model, small)[0]


def lora(path: Path, *, seed: int = 0, layer: str = "to_q", width: int = TOY.denoiser.width) -> str:
    generator, name = torch.Generator().manual_seed(seed), f"transformer.transformer_blocks.1.attn1.{layer}"
    halves = {"A": torch.randn(4, width, generator=generator), "B": torch.randn(width, 4, generator=generator)}
    save_file({f"{name}.lora_{side}.weight": half for side, half in halves.items()}, path)
    return str(path)


def test_adapters_are_worn_for_one_job_and_leave_no_trace(
    weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    places = {"sketch": lora(tmp_path / "a.safetensors"), "slow": lora(tmp_path / "b.safetensors", layer="to_v")}
    places["wide"] = lora(tmp_path / "c.safetensors", width=8)
    model = DenoiseModel.load(str(weights(TOY)), loras=places)
    plain, _ = run(model, small)
    both = small.model_copy(update={"adapters": (Adapter(name="sketch", scale=0.7), Adapter(name="slow"))})
    worn, _ = run(model, both, stop_at=2)
    assert run(model, small)[0] == plain != worn
    assert run(model, both)[0] == worn
    assert run(model, small.model_copy(update={"adapters": (Adapter(name="sketch", scale=0.0),)}))[0] == plain
    for wrong in ("unknown", "wide"):
        with pytest.raises(WeightsError):
            run(model, small.model_copy(update={"adapters": (Adapter(name="sketch"), Adapter(name=wrong))}))
    assert run(model, small)[0] == plain


def test_an_adapter_that_is_replaced_while_the_service_runs_is_refused(tmp_path: Path) -> None:
    places = {str(number): lora(tmp_path / f"{number}.safetensors", seed=number) for number in range(6)}
    adapters = Adapters(places)
    hashes = [adapters.sha256(name) for name in places]
    assert hashes == [content_sha256(Path(place)) for place in places.values()]
    assert len(set(hashes)) == 6
    lora(tmp_path / "0.safetensors", seed=9)
    with pytest.raises(WeightsError, match="was replaced"):
        adapters.put_on(random_denoiser(TOY.denoiser), [Adapter(name="0")])
    assert adapters.sha256("0") == hashes[0]


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_previews_show_the_way_and_change_no_bit(
    sampler: str, weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    settings = small.model_copy(update={"sampler": sampler})
    model = DenoiseModel.load(str(weights(TOY)))
    sha256, _ = run(model, settings)
    seen, reports = run(model, settings, preview_every=1)
    assert seen == sha256
    notes = [facts for method, facts in reports.told if method == "note"]
    assert notes == [{"name": "preview", "step": step, "url": f"/v1/videos/a/previews/{step}"} for step in (1, 2, 3)]
    storage = open_storage(tmp_path / "results")
    pictures = [Image.open(io.BytesIO(storage.read_bytes(results.preview_file("a", step)))) for step in (1, 2, 3)]
    assert {(picture.format, picture.size) for picture in pictures} == {("JPEG", (48, 32))}


def test_the_fingerprint_tells_jobs_apart_that_differ_and_only_those(
    weights: Any, small: JobSettings, run: Any, tmp_path: Path
) -> None:
    places = {"sketch": lora(tmp_path / "a.safetensors"), "copy": lora(tmp_path / "b.safetensors")}
    model = DenoiseModel.load(str(weights(TOY)), loras=places)
    same = [small, small.model_copy(update={"seconds": "1.0", "fps": 16})]
    assert len({model.fingerprint(settings) for settings in same}) == 1
    worn = [small.model_copy(update={"adapters": (Adapter(name=name),)}) for name in places]
    assert model.fingerprint(worn[0]) == model.fingerprint(worn[1])  # the same file under two names
    other = [small.model_copy(update=change) for change in ({"seed": 8}, {"steps": 5}, {"prompt": "x"})]
    reference = small.model_copy(update={"reference": Reference(kind="video", sha256="0" * 64)})
    marks = {model.fingerprint(settings) for settings in [small, worn[0], *other, reference]}
    assert len(marks) == 6
    pair = DenoiseModel(random_denoiser(TOY.denoiser), TOY, uri=str(weights(TOY)), groups=Groups(Split(halves=2)))
    assert pair.fingerprint(small) != model.fingerprint(small)
    run(model, small)
    with safe_open(tmp_path / "results" / results.latent_file("a"), framework="pt") as latent:
        assert latent.metadata() == {"fingerprint": model.fingerprint(small)}
