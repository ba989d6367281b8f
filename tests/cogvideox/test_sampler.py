"""Samplers step by step against diffusers, and their resumability."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

from cogvideox.guidance import Guidance
from cogvideox.sampler import DDIM, DPMSolverSDE, SamplerState, make_sampler
from cogvideox.schedule import Schedule

SHAPE = (1, 16, 3, 4, 4)
_KEYS = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}


def _velocity(question):
    """Any smooth function of latent and time will do as a network."""
    return torch.sin(question.latent * 1.3 + question.timestep / 300)


def _noise(seed=0):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [1, 4, 20, 50])
def test_ddim_equals_diffusers_at_every_step(shift, num_steps):
    theirs = CogVideoXDDIMScheduler(**_KEYS, snr_shift_scale=shift)
    theirs.set_timesteps(num_steps)
    sampler = DDIM(Schedule(shift), num_steps=num_steps)
    state = sampler.init(_noise())
    expected = _noise()
    for timestep in theirs.timesteps:
        velocity = torch.sin(expected * 1.3 + timestep / 300)
        expected = theirs.step(velocity, timestep, expected, return_dict=False)[0].float()
        state = sampler.step(state, _velocity)
        torch.testing.assert_close(state.latent, expected, rtol=1e-5, atol=1e-5)
    assert state.finished


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [4, 20, 50])
def test_dpm_equals_diffusers_at_every_step(shift, num_steps):
    theirs = CogVideoXDPMScheduler(**_KEYS, snr_shift_scale=shift)
    theirs.set_timesteps(num_steps)
    generator = torch.Generator().manual_seed(7)
    draws = torch.Generator().manual_seed(7)

    def same_noise(state):
        # diffusers draws twice where it takes the second-order step, and uses the second draw.
        noise = torch.randn(SHAPE, generator=draws)
        return noise if state.previous is None else torch.randn(SHAPE, generator=draws)

    sampler = DPMSolverSDE(Schedule(shift), num_steps=num_steps, noise=same_noise)
    state = sampler.init(_noise())
    expected, previous = _noise(), None
    for index, timestep in enumerate(theirs.timesteps):
        velocity = torch.sin(expected * 1.3 + timestep / 300)
        back = theirs.timesteps[index - 1] if index else None
        expected, previous = theirs.step(velocity, previous, timestep, back, expected, generator=generator)
        expected = expected.float()
        state = sampler.step(state, _velocity)
        torch.testing.assert_close(state.latent, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["ddim", "dpm"])
@pytest.mark.parametrize("stop_after", [0, 1, 2, 6])
def test_a_resumed_trajectory_ends_bit_for_bit_like_an_undisturbed_one(name, stop_after):
    def run(state, until):
        while state.step < until:
            state = make_sampler(name, Schedule(), num_steps=7).step(state, _velocity)
        return state

    start = make_sampler(name, Schedule(), num_steps=7).init(_noise(), seed=5)
    undisturbed = run(start, 7)
    saved = run(start, stop_after).to_bytes()
    resumed = run(SamplerState.from_bytes(saved), 7)
    assert torch.equal(resumed.latent, undisturbed.latent)
    assert (resumed.step, resumed.timesteps, resumed.seed) == (7, undisturbed.timesteps, 5)


@pytest.mark.parametrize("sampler", [DDIM, DPMSolverSDE])
def test_a_perfect_denoiser_arrives_at_its_latent(sampler):
    truth = _noise(9) * 0.7
    schedule = Schedule()

    def perfect(question):
        share = schedule.signal_share(question.timestep)
        noise = (question.latent - share**0.5 * truth) / (1 - share) ** 0.5
        return share**0.5 * noise - (1 - share) ** 0.5 * truth

    state = sampler(schedule, num_steps=10).init(_noise())
    while not state.finished:
        before, state = state, sampler(schedule, num_steps=10).step(state, perfect)
        torch.testing.assert_close(
            sampler(schedule, num_steps=10).predicted(before, state), truth, atol=1e-4, rtol=1e-3
        )
    torch.testing.assert_close(state.latent, truth, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.8, 8), (0.01, 1)])
def test_strength_says_how_many_of_the_steps_run(strength, steps):
    sampler = DDIM(Schedule(), num_steps=10)
    state = sampler.init_from(_noise(1), _noise(), strength=strength)
    assert state.timesteps == sampler.timesteps[10 - steps :]


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match="strength="):
        DDIM(Schedule(), num_steps=10).init_from(_noise(1), _noise(), strength=strength)


def test_a_finished_trajectory_refuses_another_step():
    sampler = DDIM(Schedule(), num_steps=1)
    state = sampler.step(sampler.init(_noise()), _velocity)
    with pytest.raises(ValueError, match="finished"):
        sampler.step(state, _velocity)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler='euler': must be 'ddim' or 'dpm'"):
        make_sampler("euler", Schedule(), num_steps=2)


def test_the_wave_of_dynamic_guidance_has_the_published_values():
    timesteps = range(999, 0, -20)
    wave = [Guidance(6.0, "wave").scale_at(step=i, num_steps=50, timestep=t) for i, t in enumerate(timesteps)]
    first = [2.29, 2.54, 6.97, 6.42, 2.79, 4.27, 1.04, 4.17, 1.62, 6.98, 1.00, 2.87]
    assert [round(value, 2) for value in wave[:12]] == first
    assert [round(value, 2) for value in wave[-4:]] == [1.06, 1.00, 1.00, 1.12]


def test_smooth_dynamic_guidance_only_rises():
    curve = [Guidance(6.0, "smooth").scale_at(step=i, num_steps=50, timestep=0) for i in range(50)]
    assert curve == sorted(curve)
    assert curve[0] == 1.0
    assert curve[25] < 1.1
    assert 6.0 < curve[-1] <= 7.0


def test_a_scale_of_one_needs_no_second_half():
    assert not Guidance(1.0).needs_unconditional
    assert Guidance(1.0, "smooth").needs_unconditional
