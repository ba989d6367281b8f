"""Engines and world sizes against each other, on real footage: one process group per size, all laws on its runs."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cogvideox.variants import VARIANTS
from cogvideox.weights import save_pipeline
from groundwork.storage import Storage, open_storage
from tests.support.denoisers import random_denoiser
from training import checkpoint
from training.metrics import StepMetrics, read_metrics
from training.recipe import TrainRecipe

Make = Callable[..., TrainRecipe]
TOY_I2V = VARIANTS["toy-i2v"]
ENGINES = ("zero-1", "zero-3", "offload", "ddp", "fsdp", "hsdp")
"""Beside ZeRO-2, the default."""
NUM_STEPS = 8


@dataclass(frozen=True)
class Start:
    """One start of the workers: `stop_after` a checkpoint stands for everything that ends a run early.

    `full_disk`: the second worker can write no file larger than 64 KiB. `copy_of`: goes on from step 6 of another run.
    """

    recipe: str
    dataset: str
    out: str
    stop_after: int | None = None
    full_disk: bool = False
    copy_of: str = ""


class StoppedError(Exception):
    pass


def work(rank: int, world: int, meet: str, starts: list[Start]) -> None:
    """A worker process: joins the group, then runs one start after the other."""
    from training.worker import Job, run_worker

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    for start in starts:
        if start.full_disk and rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
        if start.copy_of and rank == 0:
            shutil.copytree(start.copy_of, start.out, ignore=shutil.ignore_patterns(f"step-{NUM_STEPS:06d}"))
        dist.barrier()

        def report(metrics: dict[str, Any], *, start: Start = start) -> None:
            assert not start.full_disk, metrics
            if metrics["step"] == start.stop_after:
                raise StoppedError

        job = Job(TrainRecipe.model_validate_json(start.recipe), (start.dataset,), start.out)
        try:
            failure = run_worker(job, report=report)
            assert (failure is not None) == start.full_disk, failure
            if failure is not None:
                (Path(start.out) / f"failure-{rank}").write_text(failure[0])
        except StoppedError:
            assert start.stop_after is not None
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: Path, recipe_with: Make) -> Callable[[str], Storage]:
    """Runs of one recipe: undisturbed, stopped and resumed, on other engines, and on other numbers of workers."""
    folder = tmp_path_factory.mktemp("runs")
    image_model = save_pipeline(folder / "toy-i2v", variant=TOY_I2V, denoiser=random_denoiser(TOY_I2V.denoiser))

    def start(name: str, *, stop_after: int | None = None, copy_of: str = "", **changes: Any) -> Start:
        stages = [stage.model_dump() | {"steps": NUM_STEPS // 2} for stage in recipe_with().stages]
        fields: dict[str, Any] = {"stages": stages, "checkpoints": {"every_steps": 3, "keep": 2}} | changes
        recipe, before = recipe_with(**fields).model_dump_json(), str(folder / copy_of) if copy_of else ""
        return Start(recipe, str(dataset), str(folder / name), stop_after, name == "full", before)

    def spawn(world: int, starts: list[Start]) -> None:
        mp.spawn(work, (world, str(folder / f"meet-{world}"), starts), nprocs=world)

    third, shards, canonical = ({"engine": {"kind": kind}} for kind in ("zero-3", "fsdp", "canonical"))
    coarse = {"precision": "bfloat16", "activation_checkpointing": "full"}
    spawn(
        2,
        [
            start("undisturbed"),
            start("resumed", copy_of="undisturbed"),
            start("zero-1", stop_after=6, engine={"kind": "zero-1"}),
            start("zero-3", **third),
            start("zero-3-resumed", copy_of="zero-3", **third),
            start("ddp", engine={"kind": "ddp"}),
            start("ddp-resumed", copy_of="ddp", engine={"kind": "ddp"}),
            start("fsdp", **shards),
            start("fsdp-resumed", copy_of="fsdp", **shards),
            start("hsdp", stop_after=6, engine={"kind": "fsdp", "replicas": 2}),
            start("offload", stop_after=6, engine={"kind": "zero-2", "offload": True}),
            start("changing", stop_after=3, **shards),
            start("changing", stop_after=6, **third),
            start("canonical-changing", stop_after=3, **canonical),
            start("bfloat16", stop_after=3, engine={"kind": "zero-2"} | coarse),
            start("fsdp-bfloat16", stop_after=3, engine={"kind": "fsdp"} | coarse),
            start("full"),
        ],
    )
    ulysses = {"kind": "zero-2", "sequence_parallel": 3}
    adapter: dict[str, Any] = {"variant": "toy-i2v", "initial_weights": str(image_model), "adapter": {"rank": 2}}
    adapter |= {"held_out": {"clips": 1, "every_steps": 3}}
    spawn(
        3,
        [
            start("ulysses", stop_after=6, engine=ulysses),
            start("canonical-changing", stop_after=6, **canonical),
            start("shared-adapter", stop_after=3, engine=ulysses, **adapter),
        ],
    )
    spawn(
        1,
        [
            start("canonical", **canonical),
            start("canonical-changing", **canonical),
            start("changing"),
            start("adapter", stop_after=3, engine={"kind": "ddp"}, **adapter),
        ],
    )
    return lambda name: open_storage(folder / name)


def rows(run: Storage) -> list[StepMetrics]:
    return read_metrics(run)


def losses(run: Storage) -> list[str]:
    return [np.float32(row.loss).tobytes().hex() for row in rows(run)]


def final_state(run: Storage) -> dict[str, torch.Tensor]:
    found = checkpoint.newest_complete(run)
    assert found is not None
    assert found.step == NUM_STEPS
    with checkpoint.opened(run, found) as read:
        return {
            f"{kind}/{name}": read(f"{kind}/{name}")
            for kind in ("value", "average", "exp_avg", "exp_avg_sq")
            for name in ("patch_projection.weight", "blocks.3.feed_forward.up.bias", "time_embedding.first.weight")
        }


def guard_of(run: Storage) -> dict[str, float]:
    """What the gradient guard has learnt: part of the checkpoint."""
    found = checkpoint.newest_complete(run)
    assert found is not None
    return dict(found.facts["guard"])


@pytest.mark.parametrize(
    ("resumed", "undisturbed"),
    [
        ("resumed", "undisturbed"),
        *((f"{name}-resumed", name) for name in ("zero-3", "ddp", "fsdp")),
        ("canonical-changing", "canonical"),  # two workers, then three, then one
    ],
)
def test_a_resumed_training_equals_an_undisturbed_one_bit_for_bit(
    runs: Callable[[str], Storage], resumed: str, undisturbed: str
) -> None:
    assert losses(runs(resumed)) == losses(runs(undisturbed))
    assert len(losses(runs(resumed))) == NUM_STEPS
    assert guard_of(runs(resumed)) == guard_of(runs(undisturbed))
    assert guard_of(runs(resumed))["updates"] == NUM_STEPS // 2  # of the second stage
    one, other = final_state(runs(resumed)), final_state(runs(undisturbed))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["canonical", "changing", *ENGINES, "ulysses"])
def test_every_engine_and_number_of_workers_gives_the_same_training(runs: Callable[[str], Storage], name: str) -> None:
    got = rows(runs(name))
    expected = rows(runs("undisturbed"))[: len(got)]
    assert len(got) >= 6
    assert [row.loss for row in got] == pytest.approx([row.loss for row in expected], rel=2e-3)
    assert [row.gradient_norm for row in got] == pytest.approx([row.gradient_norm for row in expected], rel=1e-2)
    assert got[0].loss == pytest.approx(expected[0].loss, rel=1e-5)
    assert got[0].gradient_norm == pytest.approx(expected[0].gradient_norm, rel=1e-4)
    assert [row.stratum_clips for row in got] == [row.stratum_clips for row in expected]


def test_an_adapter_of_an_image_model_and_held_out_clips_do_not_know_that_workers_share_rows(
    runs: Callable[[str], Storage],
) -> None:
    got, expected = rows(runs("shared-adapter")), rows(runs("adapter"))
    assert [len(row.held_out_loss) for row in got] == [0, 0, 5]
    for one, other in zip(got, expected, strict=True):
        numbers = ([row.loss, row.gradient_norm, *row.held_out_loss] for row in (one, other))
        assert next(numbers) == pytest.approx(next(numbers), rel=1e-5)


def test_the_first_losses_are_equal_to_the_bit_whatever_the_workers(runs: Callable[[str], Storage]) -> None:
    assert len({losses(runs(name))[0] for name in ("undisturbed", "canonical", *ENGINES)}) == 1


@pytest.mark.parametrize("name", ["bfloat16", "fsdp-bfloat16"])
def test_bfloat16_with_recomputed_layers_stays_close(runs: Callable[[str], Storage], name: str) -> None:
    got = rows(runs(name))
    expected = rows(runs("undisturbed"))[: len(got)]
    assert len(got) >= 3
    assert [row.loss for row in got] == pytest.approx([row.loss for row in expected], rel=0.05)


def test_a_worker_that_cannot_write_ends_all_of_them_with_the_reason(runs: Callable[[str], Storage]) -> None:
    reasons = {runs("full").read_bytes(f"failure-{rank}").decode() for rank in range(2)}
    assert len(reasons) == 1
    assert "Cannot write" in reasons.pop()
    assert checkpoint.newest_complete(runs("full")) is None


def test_the_loss_falls_and_the_average_follows_the_weights(runs: Callable[[str], Storage]) -> None:
    found = rows(runs("undisturbed"))
    assert sum(row.loss for row in found[-3:]) < 0.8 * sum(row.loss for row in found[:3])
    state = final_state(runs("undisturbed"))
    value, average = state["value/patch_projection.weight"], state["average/patch_projection.weight"]
    assert not torch.equal(value, average)
    assert torch.allclose(value, average, atol=0.02)
