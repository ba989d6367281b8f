"""What a recipe costs: counted figures beside those of the real network, refusals, and what each worker will see."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cogvideox.denoiser import Denoiser, PackedBatch
from cogvideox.denoiser.flops import forward_flops
from cogvideox.objective import noise_for, stream_seed
from cogvideox.variants import VARIANTS
from groundwork.errors import RecipeError, UsageError
from groundwork.latents import read_index
from groundwork.storage import open_storage
from training import costs
from training.devices import DEVICES, device_named, this_machine
from training.explain import explain
from training.explain import text as explained
from training.order import Order
from training.plan import plan, text
from training.recipe import EngineSettings, Stage, TrainRecipe

TOY = VARIANTS["toy"]
BIG = VARIANTS["cogvideox-5b"].denoiser
STAGE = Stage(name="big", steps=100, tokens_per_pack=17_776, packs_per_step=8, learning_rate=1e-4)


def big(**engine: object) -> TrainRecipe:
    settings = EngineSettings.model_validate(engine)
    recipe = TrainRecipe(name="big", variant="cogvideox-5b", stages=(STAGE,), engine=settings)
    return recipe.model_copy(update={"workers": recipe.workers.model_copy(update={"count": 8})})


def one_pack(sizes: list[tuple[int, int, int]], config: object = TOY.denoiser) -> PackedBatch:
    latents = tuple(torch.randn(16, *size) for size in sizes)
    texts = tuple(torch.randn(TOY.denoiser.max_text_tokens, TOY.denoiser.text_width) for _ in sizes)
    return PackedBatch(latents, torch.tensor([500] * len(sizes)), texts)


def test_flops_are_those_that_torch_counts_of_the_real_network() -> None:
    wide = replace(TOY.denoiser, num_heads=12)
    batch = one_pack([(3, 12, 18), (1, 24, 24)])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        Denoiser(wide).forward_packed(batch)
    counted = forward_flops(wide, batch.layout(wide).clip_lengths)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_parameters_are_counted_without_making_them() -> None:
    assert costs.parameter_counts(BIG)[0] == 5_570_283_072  # as diffusers has them
    toy = Denoiser(TOY.denoiser)
    assert costs.parameter_counts(TOY.denoiser)[0] == sum(parameter.numel() for parameter in toy.parameters())


@pytest.mark.parametrize("low", [False, True])
def test_activations_are_those_that_the_real_network_keeps(low: bool) -> None:
    denoiser, batch = Denoiser(TOY.denoiser).train(), one_pack([(5, 12, 18), (3, 12, 18)])
    own = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=low),
    ):
        denoiser.forward_packed(batch)
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    tokens = batch.layout(TOY.denoiser).num_tokens
    counted = TOY.denoiser.num_layers * tokens * TOY.denoiser.width
    assert counted * costs.layer_activation_bytes(TOY.denoiser, bfloat16=low) == pytest.approx(real, rel=0.15)


def test_more_sharding_and_less_kept_need_less_memory() -> None:
    def need(**engine: object) -> float:
        settings = EngineSettings.model_validate(engine)
        return costs.memory(BIG, settings, tokens=17_776, workers=8, on_gpu=True, trained=5_570_283_072).total

    kinds = ("fsdp", "zero-3", "zero-2", "zero-1", "ddp")
    needs = [need(kind=kind, activation_checkpointing="full") for kind in kinds]
    assert needs == sorted(needs)
    assert len(set(needs)) == len(kinds)
    assert need(precision="bfloat16") < need()
    assert need(kind="zero-2", offload=True) < need(kind="zero-2")
    assert need(kind="fsdp") < need(kind="fsdp", replicas=4)
    kept = [need(activation_checkpointing=mode) for mode in ("full", ("attention",), ("attention", "linear"), "none")]
    assert kept == sorted(kept)
    assert kept[0] < need(activation_checkpointing=2) < need(activation_checkpointing=3) < kept[-1]
    assert need(sequence_parallel=4) < need(sequence_parallel=2) < need()


@pytest.mark.parametrize(
    ("engine", "sent"),  # of one pack and of two, in bytes per byte of parameters: counted on two workers over gloo
    [
        ({"kind": "ddp"}, (1.0, 1.0)),
        ({"kind": "zero-1"}, (1.5, 1.5)),
        ({"kind": "zero-2"}, (1.5, 2.5)),
        ({"kind": "zero-3"}, (1.0, 2.0)),  # gloo sends half more: it scatters a sum by way of the whole one
        ({"kind": "fsdp"}, (1.479, 2.957)),  # this too
        ({"kind": "fsdp", "precision": "bfloat16"}, (0.990, 1.979)),
        ({"kind": "fsdp", "replicas": 2}, (1.0, 1.0)),
    ],
)
def test_sent_bytes_are_those_that_were_counted(engine: dict[str, object], sent: tuple[float, float]) -> None:
    config = replace(TOY.denoiser, num_heads=4)
    settings, count = EngineSettings.model_validate(engine), costs.parameter_counts(config)[0]
    planned = [
        costs.bytes_sent(config, settings, workers=2, turns=turns, trained=count, tokens=100) / (4 * count)
        for turns in (1, 2)
    ]
    assert planned == pytest.approx(sent, rel=2e-3)


def test_an_adapter_needs_states_for_itself_alone() -> None:
    recipe = big(precision="bfloat16", activation_checkpointing="full")
    adapter = recipe.adapter.model_copy(update={"rank": 128})
    lora = recipe.model_copy(update={"adapter": adapter, "initial_weights": "weights"})
    assert costs.trained_parameters(recipe) == 5_570_283_072
    assert costs.trained_parameters(lora) == 42 * 4 * 2 * 128 * 3072
    all_, part = (plan(one, DEVICES["h100"]).stages[0] for one in (recipe, lora))
    assert part.memory["optimizer"] < 0.05 * all_.memory["optimizer"]
    assert part.memory["weights"] == all_.memory["weights"]
    assert part.gigabytes_sent_per_step < 0.05 * all_.gigabytes_sent_per_step
    assert part.seconds_per_step < all_.seconds_per_step


def test_what_does_not_fit_is_refused_with_changes_that_make_it_fit() -> None:
    with pytest.raises(RecipeError, match=r"stage 'big' of 'big' needs .* GiB on each of 8 workers") as caught:
        plan(big(), device_named("h100"))
    assert "activations" in str(caught.value)
    assert "It fits with one of: --engine.activation-checkpointing full (" in str(caught.value)
    with pytest.raises(RecipeError, match=r"It fits with --engine\.\S+ .*--engine\.\S+ .*GiB\)"):
        plan(big(), replace(device_named("h100"), memory_gib=40))
    fitting = plan(big(precision="bfloat16", activation_checkpointing="full"), device_named("h100"))
    assert fitting.stages[0].fits
    assert 30 < fitting.stages[0].memory_gib < 60


def test_memory_is_that_of_the_fewest_workers_there_may_be() -> None:
    recipe = big(kind="fsdp", precision="bfloat16", activation_checkpointing="full")
    workers = recipe.workers.model_copy(update={"at_least": 1})
    with pytest.raises(RecipeError, match="on each of 1 workers") as caught:
        plan(recipe.model_copy(update={"workers": workers}), device_named("h100"))
    assert "--workers.at-least 8 (" in str(caught.value)


def test_time_and_price_follow_from_flops_and_bytes() -> None:
    recipe = big(precision="bfloat16", activation_checkpointing="full")
    device = replace(DEVICES["h100"], utilization=0.5, price_per_hour=3.0, link_bytes_per_second=1e30)
    (stage,) = plan(recipe, device).stages
    work = 4 * forward_flops(BIG, [17_776])
    assert stage.seconds_per_step == pytest.approx(work / (0.5 * 989e12), rel=1e-3)
    assert stage.utilization == pytest.approx(0.375, rel=1e-3)  # a quarter of the work is done again
    assert stage.price == pytest.approx(100 * stage.seconds_per_step / 3600 * 8 * 3.0, abs=0.01)
    slow = plan(recipe, replace(device, link_bytes_per_second=10e9)).stages[0]
    assert slow.seconds_per_step - stage.seconds_per_step == pytest.approx(slow.seconds_sending, abs=1e-3)
    words = text(plan(recipe, device).to_json())
    assert "8 × h100" in words
    assert "each clip is taken to fill a row" in words


def test_a_dataset_gives_its_own_fill_and_passes(dataset: Path, recipe_with: Callable[..., TrainRecipe]) -> None:
    recipe = recipe_with()
    clips = read_index(open_storage(dataset))
    order = Order(recipe, clips, {})
    chosen = [order.clips_of(stage) for stage in range(len(recipe.stages))]
    made = plan(recipe, device_named("h100"), clips=chosen)
    for index, (stage, planned) in enumerate(zip(recipe.stages, made.stages, strict=True)):
        assert planned.clips == len(chosen[index])
        assert 0 < planned.fill <= 1
        assert planned.passes == pytest.approx(stage.steps * planned.clips_per_step / planned.clips, rel=1e-2)


def test_this_machine_is_measured_by_a_step() -> None:
    device = this_machine(TOY, tokens=300, recompute=False, workers=2)
    assert 1e8 < device.flops_per_second < 1e15
    assert device.memory_gib > 0.5


def test_explain_tells_what_the_order_gives_each_worker(dataset: Path, recipe_with: Callable[..., TrainRecipe]) -> None:
    recipe = recipe_with()
    clips = read_index(open_storage(dataset))
    told = explain(recipe, clips, {}, step=2)
    plan_ = Order(recipe, clips, {}).step(1)
    assert [[clip["clip"] for clip in pack["clips"]] for pack in told["packs"]] == [
        [draw.name for draw in pack] for pack in plan_.packs
    ]
    for rank in range(recipe.workers.count):
        mine = [draw.timestep for _, pack in plan_.share(rank, recipe.workers.count) for draw in pack if draw.weight]
        assert mine == [clip["timestep"] for pack in told["packs"] if pack["worker"] == rank for clip in pack["clips"]]
    with pytest.raises(UsageError, match="the schedule has steps 1 to"):
        explain(recipe, clips, {}, step=0)


def test_explain_tells_all_that_chance_decides(dataset: Path, recipe_with: Callable[..., TrainRecipe]) -> None:
    clips = read_index(open_storage(dataset))
    image = {"dropout": 0.5, "noise_mean": -1.0, "noise_std": 0.5}
    adapter = {"rank": 2, "dropout": 0.1}
    recipe = recipe_with(variant="toy-i2v", text_dropout=0.5, image=image, adapter=adapter, initial_weights="there")
    plan_, told = Order(recipe, clips, {}).step(6), explain(recipe, clips, {}, step=7)
    packs = told["packs"]
    shown = [clip for pack in packs for clip in pack["clips"]]
    for draw, clip in zip(plan_.draws, shown, strict=True):
        assert (clip["caption"], clip["text_dropped"]) == (draw.caption, draw.drop_text)
        assert (clip["image_dropped"], clip["image_noise"]) == (draw.drop_image, draw.image_noise)
        assert clip["image_noise_log"] == pytest.approx(math.log(draw.image_noise))
        generator = torch.Generator().manual_seed(clip["noise_seed"])
        assert torch.equal(torch.randn(2, 3, generator=generator), noise_for(recipe.seed, 6, draw.name, (2, 3)))
    firsts = [first for first, _ in plan_.share(0, 1)]
    assert [pack["dropout_seed"] for pack in packs] == [stream_seed(recipe.seed, 6, "dropout", at) for at in firsts]
    lines = explained(told)
    assert lines.count("no image") == sum(clip["image_dropped"] for clip in shown) > 0
    assert lines.count("no text") == sum(clip["text_dropped"] for clip in shown) > 0
    assert lines.count("image noise") == sum(not clip["image_dropped"] for clip in shown) > 0
