"""The fast forms of linear layers and GELU against torch's own, on this machine and as if it had other units."""

import pytest
import torch
import torch.nn.functional as F

from cogvideox.denoiser import kernels
from tests.support.denoisers import SWITCHES, question, random_denoiser, relative_error


@pytest.fixture(params=[False, True], ids=["no matrix units", "matrix units"])
def machine(request, monkeypatch):
    monkeypatch.setattr(kernels, "_has_matrix_units", lambda: request.param)


def _layer(dtype):
    torch.manual_seed(0)
    return torch.nn.Linear(48, 96).to(dtype), torch.randn(300, 48).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_has_torchs_answer_and_gradients(dtype, machine):
    layer, tokens = _layer(dtype)
    reference = torch.nn.Linear(48, 96).double()
    reference.load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
    ours, theirs = tokens.clone().requires_grad_(), tokens.double().requires_grad_()
    kernels.linear(ours, layer).square().sum().backward()
    reference(theirs).square().sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert relative_error(ours.grad, theirs.grad) < tolerance
    assert relative_error(layer.weight.grad, reference.weight.grad) < tolerance
    assert relative_error(layer.bias.grad, reference.bias.grad) < tolerance


def test_gelu_is_the_tanh_form_with_its_gradient():
    x = torch.linspace(-12, 12, 4000).view(1000, 4)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    answer, expected = kernels.gelu(ours), F.gelu(theirs, approximate="tanh")
    torch.testing.assert_close(answer, expected, atol=2e-6, rtol=1e-5)
    answer.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("fused", [False, True])
def test_a_prepared_layer_has_torchs_answer(fused, monkeypatch):
    if not fused:
        monkeypatch.setattr(kernels, "_has_fused_gelu", lambda: False)
    layer, tokens = _layer(torch.float32)
    with torch.no_grad():
        expected = F.gelu(layer(tokens), approximate="tanh")
        torch.testing.assert_close(
            kernels.prepared(layer, dtype=torch.float32, gelu=True)(tokens), expected, atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(kernels.prepared(layer, dtype=torch.float32)(tokens), layer(tokens))


@pytest.mark.parametrize("name", ["sincos", "rope"])
def test_half_precision_stays_close_to_single(name, machine):
    config = SWITCHES[name]
    denoiser = random_denoiser(config)
    latent, timestep, text = question(config)
    with torch.no_grad():
        expected = denoiser(latent, timestep=timestep, text_embedding=text)
        half = random_denoiser(config).bfloat16()
        answer = half(latent.bfloat16(), timestep=timestep, text_embedding=text.bfloat16())
    assert answer.dtype == torch.bfloat16
    assert relative_error(answer.float(), expected) < 0.05


def test_training_in_half_precision_gives_half_precision_gradients(machine):
    config = SWITCHES["rope"]
    denoiser = random_denoiser(config).bfloat16()
    latent, timestep, text = question(config)
    denoiser(latent.bfloat16(), timestep=timestep, text_embedding=text.bfloat16()).float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in denoiser.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_that_someone_hooks_is_called(dtype):
    """ZeRO-3 gathers a layer's weight in such a hook: reading the weight past it would find nothing."""
    config = SWITCHES["rope"]
    denoiser = random_denoiser(config).to(dtype)
    latent, timestep, text = question(config)
    latent, text = latent.to(dtype), text.to(dtype)
    with torch.no_grad():
        expected = denoiser(latent, timestep=timestep, text_embedding=text)
    calls = []
    for module in denoiser.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    for gradients in (False, True):
        calls.clear()
        with torch.set_grad_enabled(gradients):
            answer = denoiser(latent, timestep=timestep, text_embedding=text)
        assert set(calls) == {module for module in denoiser.modules() if isinstance(module, torch.nn.Linear)}
        assert relative_error(answer.float(), expected.float()) < (1e-5 if dtype == torch.float32 else 0.03)
