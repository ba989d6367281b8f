"""Noise levels against the published values and diffusers."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from cogvideox.schedule import Schedule, trailing_timesteps

_AT = [0, 1, 100, 300, 500, 700, 900]
_PUBLISHED = {
    1.0: [0.99915, 0.99823, 0.88676, 0.56475, 0.24102, 0.05525, 0.002960],
    3.0: [0.99745, 0.99480, 0.72824, 0.30483, 0.09533, 0.01864, 0.000945],
}


@pytest.mark.parametrize("shift", _PUBLISHED)
def test_alpha_bar_has_the_published_values_and_ends_at_exactly_zero(shift):
    alpha_bar = Schedule(shift).alpha_bar
    torch.testing.assert_close(alpha_bar[_AT], torch.tensor(_PUBLISHED[shift], dtype=torch.float64), atol=1e-5, rtol=0)
    assert alpha_bar[999].item() == 0
    assert (alpha_bar.diff() < 0).all()


@pytest.mark.parametrize("shift", _PUBLISHED)
def test_alpha_bar_equals_diffusers(shift):
    theirs = CogVideoXDDIMScheduler(snr_shift_scale=shift, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    torch.testing.assert_close(Schedule(shift).alpha_bar, theirs.alphas_cumprod, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("num_steps", [1, 3, 20, 30, 50, 1000])
def test_trailing_timesteps_equal_diffusers(num_steps):
    theirs = CogVideoXDDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(num_steps)
    assert list(trailing_timesteps(num_steps)) == theirs.timesteps.tolist()


def test_a_step_count_out_of_range_is_refused():
    with pytest.raises(ValueError, match="num_steps=0: must be 1 to 1000"):
        trailing_timesteps(0)


def test_a_shift_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="snr_shift=0"):
        Schedule(0)
