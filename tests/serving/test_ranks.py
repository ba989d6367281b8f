"""A denoiser spread over ranks: what one process makes, to the bit or to rounding, whoever goes on with a job."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cogvideox.autoencoder import Autoencoder
from cogvideox.ranks import Split
from cogvideox.variants import TOY, TOY_I2V, Variant
from cogvideox.weights import save_pipeline
from serving.jobs.job import Adapter, Job, JobSettings, Reference
from serving.worker import Held, Worker, WorkerLostError
from tests.support.denoisers import random_denoiser
from tests.support.held import Reports, hold
from tests.support.ranks import Found, spread_over_ranks, take

HEADS = {"num_layers": 2, "num_heads": 4, "head_width": 32}  # the toy's three do not go into two parts


def weights(folder: Path, variant: Variant) -> None:
    torch.manual_seed(0)
    denoiser, autoencoder = random_denoiser(variant.denoiser), Autoencoder(variant.autoencoder)
    save_pipeline(folder / variant.name, variant=variant, denoiser=denoiser, autoencoder=autoencoder)
    sides = {"A": torch.randn(4, variant.denoiser.width), "B": torch.randn(variant.denoiser.width, 4)}
    layer = "transformer.transformer_blocks.1.attn1.to_q"
    save_file(
        {f"{layer}.lora_{side}.weight": half for side, half in sides.items()},
        folder / variant.name / "sketch.safetensors",
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def jobs() -> dict[str, JobSettings]:
    """Guided by DPM++ with an adapter, which `both` goes on with, and a picture to start from."""
    size: dict[str, Any] = {"num_frames": 9, "height": 32, "width": 48, "fps": 8, "steps": 4, "seconds": "1"}
    drawn = JobSettings(
        model="toy", prompt="a bunny", negative_prompt="", guidance_scale=2.0, seed=7, sampler="dpm", **size
    ).model_copy(update={"adapters": (Adapter(name="sketch", scale=0.7),)})
    moved = drawn.model_copy(update={"model": TOY_I2V.name, "adapters": (), "sampler": "ddim"})
    moved = moved.model_copy(update={"reference": Reference(kind="image", sha256="0" * 64)})
    return {"halves": drawn, "parts": moved, "both": drawn}


@pytest.fixture(scope="module")
def spread(folder: Path, jobs: dict[str, JobSettings]) -> dict[str, list[Found]]:
    """What every rank found, by the way they share the work."""
    for variant in (TOY, TOY_I2V):
        weights(folder, replace(variant, denoiser=replace(variant.denoiser, **HEADS)))
    return spread_over_ranks(folder, jobs)


def test_halves_of_guidance_on_two_ranks_give_the_bits_of_one_process(spread: Any, jobs: Any, folder: Path) -> None:
    alone = take(jobs["halves"], folder / TOY.name)
    for found in spread["halves"]:
        assert torch.equal(found.latent, alone.latent)
        assert found.picture == alone.picture
        assert found.mark != alone.mark


def test_ranks_that_share_rows_agree_with_one_process_to_rounding(spread: Any, jobs: Any, folder: Path) -> None:
    alone = take(jobs["parts"], folder / TOY_I2V.name)
    for found in spread["parts"]:
        assert torch.equal(found.latent, spread["parts"][0].latent)
        torch.testing.assert_close(found.latent, alone.latent, rtol=1e-4, atol=1e-4)


def test_a_job_goes_on_with_another_number_of_ranks_and_its_fingerprint_says_so(
    spread: Any, jobs: Any, folder: Path
) -> None:
    whole, resumed = spread["halves"][0], spread["both"]
    for found in resumed:
        torch.testing.assert_close(found.latent, whole.latent, rtol=1e-4, atol=1e-4)
    back = take(jobs["both"], folder / TOY.name, saved=whole.saved)
    assert torch.equal(back.latent, whole.latent)
    marks = {whole.mark, resumed[0].mark, back.mark, take(jobs["both"], folder / TOY.name).mark}
    assert len(marks) == 4


@pytest.mark.parametrize(
    ("ranks", "heads", "split"), [(1, 30, (1, 1)), (2, 30, (2, 1)), (6, 30, (2, 3)), (3, 48, (1, 3))]
)
def test_guidance_is_split_before_rows_are(ranks: int, heads: int, split: tuple[int, int]) -> None:
    Split.of(ranks).check(heads=heads)
    assert Split.of(ranks) == Split(*split)


def test_ranks_that_heads_cannot_be_dealt_out_to_are_refused_with_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"ranks=8: 4 of them .* 30 .* allowed are 1, 2, 3, 4, 5, 6, 10, 12, 15, 20"):
        Split.of(8).check(heads=30)


class OneJob(Reports):
    """A store with a single job."""

    def __init__(self, settings: JobSettings) -> None:
        super().__init__()
        self._jobs = [hold(settings, self).job]

    async def claim(self, *_: Any, **__: Any) -> Job | None:
        return self._jobs.pop() if self._jobs else None


@pytest.mark.parametrize("job_error", [None, MemoryError("too large")])
def test_a_worker_that_lost_its_ranks_ends_and_fails_a_job_only_for_its_size(
    job_error: Exception | None, jobs: Any
) -> None:
    async def lose(_: Held) -> None:
        raise WorkerLostError("rank 1 of 2 has died", job_error)

    async def run() -> OneJob:
        store = OneJob(jobs["halves"])
        worker = Worker(store, lose, stage="denoise", lease_seconds=60)
        await asyncio.wait([worker.loop], timeout=10)
        with pytest.raises(WorkerLostError, match="rank 1 of 2"):
            worker.check()
        return store

    told = asyncio.run(run()).told
    assert told == ([] if job_error is None else [("fail", {"code": "out_of_memory", "message": "too large"})])


def test_a_worker_takes_no_job_that_it_cannot_do(jobs: Any) -> None:
    async def never(held: Held) -> None:
        raise AssertionError(held.job.id)

    def lost() -> None:
        raise WorkerLostError("rank 0 of 2 has died")

    async def run() -> Job | None:
        store = OneJob(jobs["halves"])
        worker = Worker(store, never, stage="denoise", lease_seconds=60, check=lost)
        await asyncio.wait([worker.loop], timeout=10)
        assert isinstance(worker.loop.exception(), WorkerLostError)
        return await store.claim()

    assert asyncio.run(run()) is not None
