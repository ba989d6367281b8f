"""LoRA adapters in the diffusers and peft layouts: load, merge, unmerge, refuse."""

import json

import pytest
import torch
from diffusers import CogVideoXPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file

from cogvideox.weights import load_lora, merge_lora, save_denoiser
from cogvideox.weights.lora import weight_of
from groundwork.errors import WeightsError
from tests.support.denoisers import (
    SWITCHES,
    ask_diffusers,
    diffusers_twin,
    question,
    random_denoiser,
    relative_error,
)

CONFIG = SWITCHES["rope"]


def _tensors(prefix="transformer.", rank=4, infix=""):
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in range(CONFIG.num_layers):
        for layer in ("to_q", "to_k", "to_v", "to_out.0"):
            name = f"{prefix}transformer_blocks.{block}.attn1.{layer}"
            tensors[f"{name}.lora_A{infix}.weight"] = torch.randn(rank, CONFIG.width, generator=generator) * 0.1
            tensors[f"{name}.lora_B{infix}.weight"] = torch.randn(CONFIG.width, rank, generator=generator) * 0.1
    return tensors


@pytest.fixture
def file(tmp_path):
    save_file(_tensors(), tmp_path / "pytorch_lora_weights.safetensors")
    return tmp_path / "pytorch_lora_weights.safetensors"


def test_merging_adds_the_product_of_the_halves(file):
    denoiser = random_denoiser(CONFIG)
    before = weight_of(denoiser, "blocks.1.attention.query").clone()
    merge_lora(denoiser, load_lora(file), strength=0.5)
    tensors = _tensors()
    name = "transformer.transformer_blocks.1.attn1.to_q"
    change = tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
    torch.testing.assert_close(weight_of(denoiser, "blocks.1.attention.query"), before + 0.5 * change)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unmerging_puts_the_weights_back_bit_for_bit(file, dtype):
    denoiser, untouched = random_denoiser(CONFIG).to(dtype), random_denoiser(CONFIG).to(dtype)
    merged = merge_lora(denoiser, load_lora(file))
    latent, timestep, text = question(CONFIG)
    with torch.no_grad():
        changed = denoiser(latent.to(dtype), timestep=timestep, text_embedding=text.to(dtype))
        merged.unmerge()
        again = denoiser(latent.to(dtype), timestep=timestep, text_embedding=text.to(dtype))
        original = untouched(latent.to(dtype), timestep=timestep, text_embedding=text.to(dtype))
    assert not torch.equal(changed, original)
    assert torch.equal(again, original)


def test_alpha_is_read_from_each_of_its_places(tmp_path):
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(_tensors("base_model.model."), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    assert set(load_lora(folder).scale.values()) == {0.5}

    inside = tmp_path / "inside.safetensors"
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 8})}
    save_file(_tensors(), inside, metadata=metadata)
    assert set(load_lora(inside).scale.values()) == {2.0}

    tensor = tmp_path / "tensor.safetensors"
    alpha = {"transformer.transformer_blocks.0.attn1.to_q.alpha": torch.tensor(1.0)}
    save_file({**_tensors(), **alpha}, tensor)
    assert load_lora(tensor).scale["blocks.0.attention.query"] == 0.25
    assert load_lora(tensor).scale["blocks.0.attention.key"] == 1.0


def test_an_adapter_of_another_model_is_refused_with_every_problem(tmp_path):
    tensors = _tensors()
    tensors["transformer.odd.lora_A.weight"] = torch.zeros(4, 4)
    del tensors["transformer.transformer_blocks.0.attn1.to_k.lora_B.weight"]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_lora(tmp_path / "a.safetensors")
    assert "superfluous: transformer.odd.lora_A.weight" in str(caught.value)
    assert "only one half: blocks.0.attention.key" in str(caught.value)


def test_an_adapter_that_does_not_fit_changes_nothing(tmp_path):
    tensors = _tensors()
    tensors["transformer.transformer_blocks.1.attn1.to_q.lora_A.weight"] = torch.zeros(4, 5)
    save_file(tensors, tmp_path / "a.safetensors")
    denoiser = random_denoiser(CONFIG)
    with pytest.raises(WeightsError, match=r"misshapen: blocks\.1\.attention\.query"):
        merge_lora(denoiser, load_lora(tmp_path / "a.safetensors"))
    original = random_denoiser(CONFIG)
    assert all(torch.equal(a, b) for a, b in zip(denoiser.parameters(), original.parameters(), strict=True))


def test_a_broken_file_and_an_empty_folder_are_named(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_lora(tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="holds no pytorch_lora_weights"):
        load_lora(tmp_path)


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_an_adapter_that_diffusers_and_peft_wrote_gives_their_answer(rank_stabilized, tmp_path):
    denoiser = random_denoiser(CONFIG)
    twin = diffusers_twin(save_denoiser(denoiser, tmp_path / "transformer"))
    layers = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    settings = {"target_modules": layers, "init_lora_weights": False, "use_rslora": rank_stabilized}
    twin.add_adapter(LoraConfig(r=3, lora_alpha=6, **settings))
    CogVideoXPipeline.save_lora_weights(
        tmp_path / "adapter",
        transformer_lora_layers=get_peft_model_state_dict(twin),
        transformer_lora_adapter_metadata=twin.peft_config["default"].to_dict(),
    )
    latent, timestep, text = question(CONFIG)
    with torch.no_grad():
        before = denoiser(latent, timestep=timestep, text_embedding=text)
        merge_lora(denoiser, load_lora(tmp_path / "adapter"))
        ours = denoiser(latent, timestep=timestep, text_embedding=text)
        theirs = ask_diffusers(twin, CONFIG, latent, timestep, text)
    assert relative_error(before, theirs) > 0.01  # the adapter changes the answer
    assert relative_error(ours, theirs) < 1e-5


def test_a_scaling_that_we_do_not_follow_is_refused(file):
    (file.parent / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "alpha_pattern": {"to_q": 8}}))
    with pytest.raises(WeightsError, match="alpha_pattern"):
        load_lora(file)
