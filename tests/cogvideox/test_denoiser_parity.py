"""Our denoiser against diffusers', weights going both ways, for every architecture switch."""

from dataclasses import replace

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from cogvideox.weights import load_denoiser, save_denoiser
from cogvideox.weights.denoiser_keys import config_to_diffusers
from tests.support.denoisers import SWITCHES, ask_diffusers, diffusers_twin, question, random_denoiser, relative_error

_TOLERANCE = 1e-5


def _sizes(config):
    frames = 4 if config.patch_frames == 2 else 3
    native = (frames, 8, 12)
    return [native] if config.positions == "rope+learned" else [native, (frames + 2, 8, 8), (2, 12, 16)]


@pytest.mark.parametrize("name", SWITCHES)
@torch.no_grad()
def test_diffusers_reads_our_weights_and_answers_the_same(name, tmp_path):
    config = SWITCHES[name]
    ours = random_denoiser(config)
    theirs = diffusers_twin(save_denoiser(ours, tmp_path / "transformer"))
    # Beside the native size diffusers interpolates rotary positions of 1.0 models; our default extrapolates.
    ours.config = replace(config, rope_mode="interpolate" if config.patch_frames == 1 else "extrapolate")
    for frames, height, width in _sizes(config):
        latent, timestep, text = question(config, frames=frames, height=height, width=width)
        expected = ask_diffusers(theirs, config, latent, timestep, text)
        answer = ours(latent, timestep=timestep, text_embedding=text)
        assert relative_error(answer, expected) < _TOLERANCE, (frames, height, width)


@pytest.mark.parametrize("name", SWITCHES)
@torch.no_grad()
def test_we_read_diffusers_weights_and_answer_the_same(name, tmp_path):
    config = SWITCHES[name]
    torch.manual_seed(3)
    keys = {k: v for k, v in config_to_diffusers(config).items() if not k.startswith("_")}
    theirs = CogVideoXTransformer3DModel(**keys).eval()
    theirs.save_pretrained(tmp_path / "transformer", max_shard_size="200KB")
    assert (tmp_path / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    ours = load_denoiser(tmp_path / "transformer")
    assert ours.config == config
    frames, height, width = _sizes(config)[0]
    latent, timestep, text = question(config, frames=frames, height=height, width=width)
    expected = ask_diffusers(theirs, config, latent, timestep, text)
    answer = ours(latent, timestep=timestep, text_embedding=text)
    assert relative_error(answer, expected) < _TOLERANCE


@pytest.mark.parametrize("name", ["rope", "two-frame patches"])
def test_gradients_equal_diffusers(name, tmp_path):
    config = SWITCHES[name]
    ours = random_denoiser(config)
    theirs = diffusers_twin(save_denoiser(ours, tmp_path / "transformer"))
    latent, timestep, text = question(config, frames=4)
    ours(latent, timestep=timestep, text_embedding=text).square().mean().backward()
    if config.patch_frames == 1:
        ours.config = replace(config, rope_mode="interpolate")
    ask_diffusers(theirs, config, latent, timestep, text).square().mean().backward()
    expected = dict(theirs.named_parameters())
    from cogvideox.weights.denoiser_keys import to_diffusers_key

    for ours_name, parameter in ours.named_parameters():
        gradient = expected[to_diffusers_key(ours_name)].grad.reshape(parameter.shape)
        assert relative_error(parameter.grad, gradient) < 5e-5, ours_name
