"""Layers with products in 8 bits, and compiled ones: close to, and equal to, the plain ones on packs of any form."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from cogvideox.denoiser import Denoiser
from tests.training.test_sequence_parallel import packs, random_denoiser
from training.compute import apply_compile, apply_float8
from training.parallelize import PackedDenoiser
from training.recipe import EngineSettings
from training.recompute import apply_recompute


def gradients(denoiser: Denoiser) -> tuple[dict[str, Tensor], Tensor]:
    """Of two rows of other lengths and numbers of clips, with the first answer."""
    module = PackedDenoiser(denoiser)
    answers = [module(batch) for batch in packs(0)]
    torch.stack([answer.square().mean() for answer in answers]).sum().backward()
    found = {name: parameter.grad for name, parameter in denoiser.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}, answers[0].detach()


def test_products_in_8_bits_stay_close_and_keep_the_names() -> None:
    expected, answer = gradients(random_denoiser())
    changed = random_denoiser()
    apply_float8(changed)
    got, close = gradients(changed)
    assert got.keys() == expected.keys()
    assert 0 < float((close - answer).norm() / answer.norm()) < 0.03
    for name, gradient in expected.items():
        assert float(torch.cosine_similarity(got[name].flatten(), gradient.flatten(), dim=0)) > 0.95, name


@pytest.mark.compile
def test_one_compilation_serves_all_packs_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected, answer = gradients(random_denoiser())
    compiled = random_denoiser()
    apply_compile(compiled)
    apply_recompute(compiled, 2)
    got, same = gradients(compiled)
    assert torch.allclose(same, answer, rtol=1e-5, atol=1e-6)
    for name, gradient in expected.items():
        assert torch.allclose(got[name], gradient, rtol=1e-4, atol=1e-5), name
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 2  # the projections, and the feed-forward: of all layers and rows


def test_compiled_code_and_a_list_of_operations_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="compile hides operations"):
        EngineSettings(compile=True, activation_checkpointing=("attention",))
