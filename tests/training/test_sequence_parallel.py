"""Rows shared by two workers under every engine, and layers that recompute: the same training as one worker's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cogvideox.denoiser import Denoiser, DenoiserConfig, PackedBatch
from groundwork.errors import RecipeError
from training.engines.groups import check_counts, check_workers
from training.parallelize import PackedDenoiser, parallelize
from training.recipe import EngineSettings, OptimizerSettings, Recompute, WorkerSettings
from training.recompute import apply_recompute

CONFIG = DenoiserConfig(num_layers=3, num_heads=4, head_width=16, text_width=24, max_text_tokens=9, time_width=32)
# Rows of 81 and 24 tokens: an odd number, borders inside clips, a text that lies on both workers.
SIZES = [[((3, 8, 6), 9), ((1, 8, 8), 5), ((1, 4, 4), 15)], [((2, 4, 4), 9), ((1, 4, 4), 3)]]
KINDS = ("ddp", "zero-1", "zero-2", "zero-3", "fsdp")
STEPS = 3


def packs(step: int) -> list[PackedBatch]:
    generator = torch.Generator().manual_seed(step)
    made = []
    for sizes in SIZES:
        latents = tuple(torch.randn(16, *size, generator=generator) for size, _ in sizes)
        texts = tuple(torch.randn(length, 24, generator=generator) for _, length in sizes)
        timesteps = torch.randint(0, 1000, (len(sizes),), generator=generator)
        made.append(PackedBatch(latents, timesteps, texts))
    return made


def random_denoiser() -> Denoiser:
    denoiser = Denoiser(CONFIG).initialize(seed=1)
    with torch.no_grad():
        for number, parameter in enumerate(denoiser.parameters()):
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    return denoiser


def train_alone() -> dict[str, Tensor]:
    """The same training without any engine: torch's AdamW and clipping, in this process."""
    denoiser, losses, norms = random_denoiser(), [], []
    module, settings = PackedDenoiser(denoiser), OptimizerSettings()
    betas = (settings.beta1, settings.beta2)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, betas=betas, weight_decay=settings.weight_decay)
    for step in range(STEPS):
        for batch in packs(step):
            loss = module(batch).square().mean()
            loss.backward()
            losses.append(loss.detach())
        norms.append(torch.nn.utils.clip_grad_norm_(module.parameters(), 0.5))
        optimizer.step()
        optimizer.zero_grad()
    values = {f"value/{name}": parameter.detach() for name, parameter in denoiser.named_parameters()}
    return {"losses": torch.stack(losses), "norms": torch.stack(norms), **values}


def train(engine: EngineSettings) -> dict[str, Tensor]:
    """Losses, norms and the parameters that this worker saves, after a few steps of two packs each."""
    denoiser = random_denoiser()
    spread = parallelize(denoiser, engine=engine, optimizer=OptimizerSettings())
    losses, norms = [], []
    for step in range(STEPS):
        for turn, batch in enumerate(packs(step)):
            loss = spread(batch).square().mean()
            spread.backward(loss, last=turn == 1)
            losses.append(loss.detach())
        norms.append(torch.tensor(spread.update(1e-3, gradient_clip=0.5)))
    values = {
        name: value for name, value in spread.take_out(spread.local_values()).items() if name.startswith("value/")
    }
    return {"losses": torch.stack(losses), "norms": torch.stack(norms), **values}


def work(rank: int, world: int, meet: str, out: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    for kind in KINDS:
        engine = EngineSettings.model_validate({"kind": kind, "sequence_parallel": world})
        torch.save(train(engine), Path(out) / f"{kind}-{rank}")
    again = EngineSettings(kind="fsdp", sequence_parallel=world, activation_checkpointing=("attention",))
    torch.save(train(again), Path(out) / f"recompute-{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each worker of each engine found."""
    out = tmp_path_factory.mktemp("sequence-parallel")
    mp.spawn(work, (2, str(out / "meet"), str(out)), nprocs=2)
    return out


@pytest.mark.parametrize("kind", [*KINDS, "recompute"])
def test_workers_that_share_rows_train_as_one_worker_does(results: Path, kind: str) -> None:
    alone = train_alone()
    both = [torch.load(results / f"{kind}-{rank}") for rank in range(2)]
    assert alone["norms"].min() > 0.5  # clipping was at work
    seen = set[str]()
    for found in both:
        seen |= found.keys()
        assert torch.allclose(found["losses"], alone["losses"], rtol=1e-5)
        assert torch.allclose(found["norms"], alone["norms"], rtol=1e-5)
        for name in found.keys() - {"losses", "norms"}:
            assert torch.allclose(found[name], alone[name], atol=2e-5), name
    assert seen == alone.keys()  # each parameter was saved by one of them


@pytest.mark.parametrize(("mode", "extra"), [("none", 0.0), ("full", 1.0), (2, 2 / 3), (("attention",), 0.9)])
def test_recomputing_layers_changes_no_gradient_and_costs_what_it_says(mode: Recompute, extra: float) -> None:
    def gradients(mode: Recompute) -> tuple[list[Tensor], int]:
        denoiser = Denoiser(CONFIG).initialize(seed=1)
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(parameter.numel()))
        apply_recompute(denoiser, mode)
        counter = FlopCounterMode(display=False)
        with counter:
            sum(velocity.square().mean() for velocity in denoiser.forward_packed(packs(0)[0])).backward()
        found = [parameter.grad for parameter in denoiser.parameters()]
        assert all(gradient is not None and gradient.any() for gradient in found)
        return found, counter.get_total_flops()

    (expected, usual), (got, spent) = gradients("none"), gradients(mode)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert spent / usual == pytest.approx(1 + extra / 3, abs=0.04)


def test_saved_products_are_not_multiplied_again() -> None:
    """With attention and linear maps kept nothing that counts is left to do again."""
    counts = []
    for mode in ("none", ("attention", "linear")):
        denoiser = Denoiser(CONFIG).initialize(seed=1)
        apply_recompute(denoiser, mode)
        with FlopCounterMode(display=False) as counter:
            sum(velocity.square().mean() for velocity in denoiser.forward_packed(packs(0)[0])).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1]


def test_workers_that_do_not_fit_are_refused_with_those_that_do() -> None:
    def refusal(workers: int, heads: int, **engine: object) -> str:
        with pytest.raises(RecipeError) as caught:
            check_workers(EngineSettings.model_validate(engine), workers=workers, heads=heads)
        return str(caught.value)

    check_workers(EngineSettings(kind="fsdp", sequence_parallel=6, replicas=2), workers=12, heads=30)
    said = refusal(12, 30, sequence_parallel=4)
    assert "attention heads, 30" in said
    assert "Allowed with 12 workers: 1, 2, 3, 6." in said
    assert "Allowed with 12 workers: 1, 2, 3, 4, 6, 12." in refusal(12, 30, kind="fsdp", replicas=5)


def test_every_number_of_workers_that_a_run_may_come_to_have_must_fit() -> None:
    shared = EngineSettings(sequence_parallel=2)
    check_counts(EngineSettings(), WorkerSettings(count=3, at_least=1), heads=3)
    check_counts(shared, WorkerSettings(count=4), heads=4)
    with pytest.raises(RecipeError, match=r"any number of workers from there to 4, and 3 of them do not fit"):
        check_counts(shared, WorkerSettings(count=4, at_least=2), heads=4)
    with pytest.raises(ValueError, match="the most workers there may be, is 2"):
        WorkerSettings(count=2, at_least=3)


@pytest.mark.parametrize("engine", [{"kind": "ddp", "replicas": 2}, {"kind": "fsdp", "offload": True}])
def test_an_option_of_another_engine_is_refused(engine: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="is an option of the engine"):
        EngineSettings.model_validate(engine)
