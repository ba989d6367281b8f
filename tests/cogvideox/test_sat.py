"""The SAT layout: both ways, bit for bit, and what its checkpoints carry besides."""

from dataclasses import replace

import pytest
import torch

from cogvideox.autoencoder import Autoencoder
from cogvideox.variants import VARIANTS
from cogvideox.weights import convert, load_autoencoder, load_denoiser, save_pipeline
from cogvideox.weights.sat import denoiser_to_diffusers, denoiser_to_sat, read_sat
from cogvideox.weights.sat_keys import autoencoder_to_diffusers_key, autoencoder_to_sat_key
from groundwork.errors import WeightsError
from tests.support.denoisers import SWITCHES, random_denoiser

TOY = VARIANTS["toy"]
_BLOCK = "model.diffusion_model.mixins.adaln_layer.adaLN_modulations.0.1.weight"


def _card(config):
    return replace(TOY, denoiser=config)


def _saved(config, folder):
    torch.manual_seed(0)
    return save_pipeline(
        folder, variant=_card(config), denoiser=random_denoiser(config), autoencoder=Autoencoder(TOY.autoencoder)
    )


@pytest.mark.parametrize("name", SWITCHES)
def test_diffusers_to_sat_to_diffusers_is_bit_exact(name, tmp_path):
    config = SWITCHES[name]
    source = _saved(config, tmp_path / "diffusers")
    sat = convert(source, tmp_path / "sat", to="sat")
    back = convert(sat, tmp_path / "back", to="diffusers", variant=_card(config))
    assert load_denoiser(back).config == config
    for load in (load_denoiser, load_autoencoder):
        first, second = load(source).state_dict(), load(back).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", SWITCHES)
def test_sat_to_diffusers_to_sat_is_bit_exact(name, tmp_path):
    config = SWITCHES[name]
    sat = convert(_saved(config, tmp_path / "diffusers"), tmp_path / "sat", to="sat")
    tensors = read_sat(sat / "transformer" / "1" / "mp_rank_00_model_states.pt", allow_pickle=False)
    again = denoiser_to_sat(denoiser_to_diffusers(tensors), config)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_the_twelve_modulation_chunks_are_sorted_as_published(tmp_path):
    config = SWITCHES["rope"]
    sat = convert(_saved(config, tmp_path / "diffusers"), tmp_path / "sat", to="sat")
    tensors = read_sat(sat / "transformer" / "1" / "mp_rank_00_model_states.pt", allow_pickle=False)
    width = config.width
    numbered = torch.arange(12).repeat_interleave(width)[:, None].expand(-1, config.time_width).float()
    published = denoiser_to_diffusers({**tensors, _BLOCK: numbered})
    for half, chunks in ((1, [0, 1, 2, 6, 7, 8]), (2, [3, 4, 5, 9, 10, 11])):
        rows = published[f"transformer_blocks.0.norm{half}.linear.weight"][::width, 0]
        assert rows.tolist() == chunks


def test_other_networks_and_computed_tables_in_a_checkpoint_are_left_out(tmp_path):
    config = SWITCHES["rope"]
    sat = convert(_saved(config, tmp_path / "diffusers"), tmp_path / "sat", to="sat")
    tensors = read_sat(sat / "transformer" / "1" / "mp_rank_00_model_states.pt", allow_pickle=False)
    prefix = "model.diffusion_model."
    extra = {
        "conditioner.embedders.0.transformer.shared.weight": torch.zeros(2),
        "first_stage_model.encoder.conv_in.conv.weight": torch.zeros(2),
        f"{prefix}mixins.pos_embed.freqs_sin": torch.zeros(2),
        f"{prefix}mixins.pos_embed.freqs_cos": torch.zeros(2),
        f"{prefix}transformer.layers.0.attention.query_key_value.matrix_A.0": torch.zeros(2),
    }
    assert denoiser_to_diffusers({**tensors, **extra}).keys() == denoiser_to_diffusers(tensors).keys()
    with pytest.raises(WeightsError, match=r"odd\.weight"):
        denoiser_to_diffusers({**tensors, f"{prefix}odd.weight": torch.zeros(2)})


@pytest.mark.parametrize(
    ("sat", "published"),
    [
        ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
        ("encoder.down.0.downsample.conv.weight", "encoder.down_blocks.0.downsamplers.0.conv.weight"),
        ("decoder.up.3.block.2.conv1.conv.weight", "decoder.up_blocks.0.resnets.2.conv1.conv.weight"),
        ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.2.upsamplers.0.conv.bias"),
        ("decoder.mid.block_2.norm1.conv_y.conv.weight", "decoder.mid_block.resnets.1.norm1.conv_y.conv.weight"),
    ],
)
def test_autoencoder_names_go_both_ways(sat, published):
    assert autoencoder_to_diffusers_key(sat) == published
    assert autoencoder_to_sat_key(published) == sat


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "states.pt"
    torch.save({"module": {"a": torch.zeros(1)}, "arguments": tmp_path}, path)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_sat(path, allow_pickle=False)
    assert list(read_sat(path, allow_pickle=True)) == ["a"]


def test_a_folder_that_is_not_sat_is_named(tmp_path):
    with pytest.raises(WeightsError, match="latest does not exist"):
        convert(tmp_path, tmp_path / "out", to="diffusers")


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(ValueError, match="to='onnx'"):
        convert(tmp_path, tmp_path / "out", to="onnx")
