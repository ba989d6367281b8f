"""An adapter, or named parts, are all that is trained, averaged and saved; diffusers and peft read what comes out."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline, CogVideoXTransformer3DModel
from pydantic import ValidationError
from safetensors import safe_open

from cogvideox import CogVideoX
from cogvideox.denoiser import Denoiser
from cogvideox.variants import VARIANTS
from cogvideox.weights import load_denoiser, load_lora, merge_lora, save_denoiser, save_lora, save_pipeline
from cogvideox.weights.lora import Adapter
from groundwork.errors import RecipeError, WeightsError
from groundwork.storage import Storage, open_storage
from tests.support.denoisers import ask_diffusers, random_denoiser, relative_error
from training import checkpoint
from training.export import export_weights
from training.initial import frozen_base
from training.lora import LoraLinear, choose_trained, trained_names
from training.metrics import read_metrics
from training.recipe import TrainRecipe
from training.run_folder import open_run

TOY = VARIANTS["toy"]
Make = Callable[..., TrainRecipe]
Runs = Callable[[str], Storage]
STAGE = {"steps": 5, "tokens_per_pack": 110, "packs_per_step": 3, "learning_rate": 2e-3}
ADAPTER = {"adapter": {"rank": 4, "alpha": 8.0}}
PART = {"trainable": ["transformer_blocks.*.attn1.*", "proj_out.*"]}


class StoppedError(Exception):
    pass


def work(rank: int, world: int, meet: str, starts: list[tuple[str, str, str, int]]) -> None:
    """A worker: trains one recipe after the other, up to the given step (0: to the end)."""
    from training.worker import Job, run_worker

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "DS_ACCELERATOR": "cpu"}
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    for recipe, dataset, out, last in starts:

        def report(metrics: dict[str, Any], *, last: int = last) -> None:
            if metrics["step"] == last:
                raise StoppedError

        try:
            run_worker(Job(TrainRecipe.model_validate_json(recipe), (dataset,), out), report=report)
        except StoppedError:
            assert last
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy model with other than zero in every layer: what is adapted."""
    folder = tmp_path_factory.mktemp("base")
    return save_pipeline(folder, variant=TOY, denoiser=random_denoiser(TOY.denoiser))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: Path, recipe_with: Make, base: Path) -> Runs:
    """Runs on two workers, each exported."""
    folder, recipes = tmp_path_factory.mktemp("runs"), dict[str, TrainRecipe]()
    starts = []

    def start(name: str, *, last: int = 0, **changes: Any) -> None:
        recipes[name] = recipe_with(**({"stages": [STAGE], "initial_weights": str(base)} | changes))
        starts.append((recipes[name].model_dump_json(), str(dataset), str(folder / name), last))

    dropping = {"adapter": ADAPTER["adapter"] | {"dropout": 0.2}, "engine": {"kind": "ddp"}}
    start("adapter", **ADAPTER, stages=[STAGE | {"steps": 16, "learning_rate": 2e-2}])
    start("adapter-sharded", adapter=ADAPTER["adapter"] | {"merged": False}, engine={"kind": "zero-3"})
    start("dropping", **dropping)
    start("resumed", last=4, **dropping)
    start("resumed", **dropping)
    start("part", **PART)
    start("part-sharded", **PART, engine={"kind": "fsdp"})
    mp.spawn(work, (2, str(folder / "meet"), starts), nprocs=2)
    for name in ("adapter", "adapter-sharded", "part"):
        run = open_storage(folder / name)
        export_weights(run, newest(run), recipe=recipes[name])
    return lambda name: open_storage(folder / name)


def newest(run: Storage) -> checkpoint.Checkpoint:
    found = checkpoint.newest_complete(run)
    assert found is not None
    return found


def losses(run: Storage) -> list[str]:
    return [np.float32(row.loss).tobytes().hex() for row in read_metrics(run)]


def saved_names(run: Storage) -> set[str]:
    """kind/parameter of every tensor of the newest checkpoint."""
    found, names = newest(run), set[str]()
    for file in found.files:
        with run.local_path(f"{found.folder}/{file.name}") as path, safe_open(path, "pt") as tensors:
            names |= set(tensors.keys())
    return names


def test_an_adapter_learns_the_clips(runs: Runs) -> None:
    rows = read_metrics(runs("adapter"))
    assert sum(row.loss for row in rows[-5:]) < 0.9 * sum(row.loss for row in rows[:5])


def test_only_the_adapter_is_trained_averaged_and_saved(runs: Runs) -> None:
    names = saved_names(runs("adapter"))
    layers = [f"blocks.{n}.attention.{layer}" for n in range(4) for layer in ("query", "key", "value", "out")]
    kinds = ("value", "average", "exp_avg", "exp_avg_sq")
    assert names == {f"{k}/{layer}.{half}" for k in kinds for layer in layers for half in ("lora_down", "lora_up")}


@pytest.mark.parametrize("name", ["adapter", "part"])
def test_frozen_parameters_shard_like_all_others(runs: Runs, name: str) -> None:
    two, other = (read_metrics(runs(which)) for which in (name, f"{name}-sharded"))
    assert losses(runs(name))[0] == losses(runs(f"{name}-sharded"))[0]
    if name == "part":  # the adapter's runs have other rates
        assert [row.loss for row in other] == pytest.approx([row.loss for row in two], rel=1e-3)
    assert other[0].gradient_norm == pytest.approx(two[0].gradient_norm, rel=1e-4)


def test_an_adapter_with_dropout_resumes_to_the_bit(runs: Runs) -> None:
    assert losses(runs("resumed")) == losses(runs("dropping"))
    assert losses(runs("dropping"))[1:] != losses(runs("adapter-sharded"))[1:]


def test_named_parts_change_and_the_rest_stays(runs: Runs, base: Path) -> None:
    before, after = (load_denoiser(folder).state_dict() for folder in (base, Path(runs("part").root) / "weights"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if ".attention." in name or name.startswith("out_projection")}
    assert {name.split("/")[1] for name in saved_names(runs("part"))} == changed


def test_diffusers_loads_the_adapter_and_answers_as_the_merged_model(runs: Runs, base: Path) -> None:
    weights = Path(runs("adapter").root) / "weights"
    transformer = CogVideoXTransformer3DModel.from_pretrained(base / "transformer").eval()
    parts = {"tokenizer": None, "text_encoder": None, "vae": None, "scheduler": CogVideoXDDIMScheduler()}
    CogVideoXPipeline(transformer=transformer, **parts).load_lora_weights(weights / "adapter")
    (adapter,) = transformer.peft_config.values()
    assert (adapter.r, adapter.lora_alpha) == (4, 8)
    generator = torch.Generator().manual_seed(3)
    latent = torch.randn(1, 16, 5, 12, 18, generator=generator)  # native: at others diffusers interpolates positions
    timestep, text = torch.tensor([500]), torch.randn(1, 32, 256, generator=generator)
    merged, untouched = load_denoiser(weights), load_denoiser(base)
    with torch.no_grad():
        ours = merged(latent, timestep=timestep, text_embedding=text)
        before = untouched(latent, timestep=timestep, text_embedding=text)
        theirs = ask_diffusers(transformer, TOY.denoiser, latent, timestep, text)
        merge_lora(untouched, load_lora(weights / "adapter"))
        again = untouched(latent, timestep=timestep, text_embedding=text)
    assert relative_error(ours, theirs) < 1e-5
    assert relative_error(before, theirs) > 1e-3
    assert torch.equal(again, ours)
    assert (weights / "plain" / "adapter" / "pytorch_lora_weights.safetensors").is_file()
    assert CogVideoX.from_pretrained(weights).variant.name == "toy"


def test_a_new_adapter_answers_as_the_layer_itself(recipe_with: Make) -> None:
    recipe = recipe_with(initial_weights="x", adapter={"rank": 4, "targets": ["ff.net.2", "norm1.linear"]})
    plain = Denoiser(TOY.denoiser).initialize(seed=2)
    adapted = choose_trained(Denoiser(TOY.denoiser).initialize(seed=2), recipe)
    latent, timestep, text = torch.randn(1, 16, 3, 4, 6), torch.tensor([500]), torch.randn(1, 32, 256)
    answers = [network(latent, timestep=timestep, text_embedding=text) for network in (plain, adapted)]
    assert torch.equal(*answers)
    assert len(trained_names(adapted)) == 4 * 2 * 2
    assert isinstance(adapted.get_submodule("blocks.0.feed_forward.down"), LoraLinear)


def test_an_adapter_alone_is_exported_where_no_merged_model_is_wanted(runs: Runs) -> None:
    file = "adapter/pytorch_lora_weights.safetensors"
    assert runs("adapter-sharded").list("weights") == [f"weights/{file}", f"weights/plain/{file}"]


def test_a_run_does_not_go_on_over_other_frozen_weights(base: Path, recipe_with: Make, tmp_path: Path) -> None:
    copied, run = Path(shutil.copytree(base, tmp_path / "base")), open_storage(tmp_path / "run")
    recipe = recipe_with(initial_weights=str(copied), **ADAPTER)
    open_run(run, recipe, dataset="d", dataset_hash="h", base=frozen_base(recipe))
    open_run(run, recipe, dataset="d", dataset_hash="h", base=frozen_base(recipe))
    save_denoiser(random_denoiser(TOY.denoiser, seed=1), copied / "transformer")
    with pytest.raises(RecipeError, match="holds other tensors than at the start"):
        open_run(run, recipe, dataset="d", dataset_hash="h", base=frozen_base(recipe))
    shutil.rmtree(copied)
    with pytest.raises(WeightsError, match="holds no transformer"):
        frozen_base(recipe)
    assert frozen_base(recipe_with()) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapter": {"rank": 4, "targets": ["to_x"]}}, "no layer is meant by to_x.\n  There are: attn1.to_k"),
        ({"trainable": ["blocks.*"]}, "no parameter is meant by blocks.*.\n  There are: norm_final.bias"),
    ],
)
def test_names_that_mean_nothing_are_answered_with_those_there_are(
    recipe_with: Make, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        choose_trained(Denoiser(TOY.denoiser), recipe_with(initial_weights="x", **changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (ADAPTER, "initial_weights is empty"),
        (ADAPTER | PART | {"initial_weights": "x"}, "give one of them"),
        ({"initial_weights": "x", "adapter": {"rank": 4, "merged": False}, "samples": {"count": 1}}, "samples.count"),
    ],
)
def test_what_does_not_go_together_is_refused(recipe_with: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        recipe_with(**changes)


def test_an_adapter_of_several_ranks_cannot_be_written(tmp_path: Path) -> None:
    names = ("blocks.0.attention.query", "blocks.0.attention.key")
    down = {name: torch.zeros(rank, 8) for rank, name in enumerate(names, start=1)}
    with pytest.raises(ValueError, match=r"ranks \[1, 2\]"):
        save_lora(Adapter(down, down, dict.fromkeys(names, 1.0)), tmp_path)
