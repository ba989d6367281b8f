"""Winograd's convolution is the convolution: the values of float64 arithmetic, at sizes that leave part tiles."""

import pytest
import torch
from torch import nn

from cogvideox.autoencoder import winograd


def error(values: torch.Tensor, truth: torch.Tensor) -> float:
    return float((values.double() - truth).abs().max() / truth.abs().max())


@pytest.mark.parametrize("size", [(3, 6, 6), (4, 7, 11), (5, 14, 22), (3, 9, 90)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_equals_the_convolution_at_any_size(size: tuple[int, int, int], bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(24, 40, 3, bias=bias).requires_grad_(requires_grad=False)
    inputs = torch.randn(2, 24, *size).contiguous(memory_format=torch.channels_last_3d)
    truth = nn.functional.conv3d(inputs.double(), conv.weight.double(), conv.bias.double() if bias else None)
    assert error(winograd.convolve(inputs, conv), truth) < 2e-6


def test_its_rounding_stays_at_the_level_of_a_direct_convolution() -> None:
    torch.manual_seed(0)
    conv = nn.Conv3d(256, 128, 3).requires_grad_(requires_grad=False)
    inputs = torch.randn(1, 256, 4, 14, 18)
    truth = nn.functional.conv3d(inputs.double(), conv.weight.double(), conv.bias.double())
    assert error(winograd.convolve(inputs.contiguous(memory_format=torch.channels_last_3d), conv), truth) < 5e-6


def test_only_wide_kernels_over_enough_positions_take_it() -> None:
    wide, narrow = nn.Conv3d(128, 128, 3), nn.Conv3d(16, 16, 3)
    assert winograd.suits(torch.empty(1, 128, 10, 26, 38), wide)
    assert not winograd.suits(torch.empty(1, 128, 3, 6, 6), wide)
    assert not winograd.suits(torch.empty(1, 16, 10, 26, 38), narrow)
    assert not winograd.suits(torch.empty(1, 128, 10, 26, 38, dtype=torch.bfloat16), wide)
