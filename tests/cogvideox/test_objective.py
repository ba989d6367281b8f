"""The training question: velocity, its loss, explicit uniform sampling, noise."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from cogvideox.objective import (
    add_noise,
    clip_losses,
    loss,
    noise_for,
    predict_latent,
    uniform_timesteps,
    uniform_timesteps_per_rank,
    velocity_target,
)
from cogvideox.schedule import Schedule

SCHEDULE = Schedule(3.0)


def _clips():
    generator = torch.Generator().manual_seed(0)
    latent, noise, guess = (torch.randn(4, 16, 3, 4, 4, generator=generator) for _ in range(3))
    return latent, noise, guess, torch.tensor([0, 300, 700, 999])


def test_the_velocity_target_leads_back_to_the_latent():
    latent, noise, _, timestep = _clips()
    noisy = add_noise(latent, noise, timestep=timestep, schedule=SCHEDULE)
    target = velocity_target(latent, noise, timestep=timestep, schedule=SCHEDULE)
    torch.testing.assert_close(
        predict_latent(noisy, target, timestep=timestep, schedule=SCHEDULE), latent, atol=1e-5, rtol=1e-4
    )


def test_noise_and_velocity_equal_diffusers():
    latent, noise, _, timestep = _clips()
    theirs = CogVideoXDDIMScheduler(snr_shift_scale=3.0, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    torch.testing.assert_close(
        add_noise(latent, noise, timestep=timestep, schedule=SCHEDULE), theirs.add_noise(latent, noise, timestep)
    )
    torch.testing.assert_close(
        velocity_target(latent, noise, timestep=timestep, schedule=SCHEDULE),
        theirs.get_velocity(latent, noise, timestep),
    )


def test_the_last_timestep_is_pure_noise():
    latent, noise, _, _ = _clips()
    assert torch.equal(add_noise(latent, noise, timestep=torch.full((4,), 999), schedule=SCHEDULE), noise)


def test_velocity_error_is_the_weighted_error_of_the_clean_latent():
    latent, noise, guess, timestep = _clips()
    noisy = add_noise(latent, noise, timestep=timestep, schedule=SCHEDULE)
    target = velocity_target(latent, noise, timestep=timestep, schedule=SCHEDULE)
    predicted = predict_latent(noisy, guess, timestep=timestep, schedule=SCHEDULE)
    weight = 1 / (1 - SCHEDULE.alpha_bar[timestep])
    published = weight * (predicted - latent).square().flatten(1).mean(1)
    torch.testing.assert_close(clip_losses(guess, target).double(), published, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss(guess, target), clip_losses(guess, target).mean())


@pytest.mark.parametrize("num_samples", [1, 2, 8, 40, 125])
def test_every_stratum_of_a_global_step_is_hit_exactly_once(num_samples):
    for step in range(5):
        timesteps = uniform_timesteps(3, step, num_samples)
        strata = (timesteps.double() + 0.5) * num_samples / 1000
        assert sorted(strata.int().tolist()) == list(range(num_samples))


def test_the_union_over_steps_is_uniform():
    drawn = torch.cat([uniform_timesteps(0, step, 8) for step in range(2500)])
    counts = torch.histc(drawn.float(), bins=20, min=0, max=1000)
    assert (counts - 1000).abs().max() < 120  # each count spreads by about 25
    assert (drawn.min(), drawn.max()) == (0, 999)


def test_each_sample_alone_is_uniform():
    first = torch.stack([uniform_timesteps(0, step, 4)[0] for step in range(4000)])
    counts = torch.histc(first.float(), bins=10, min=0, max=1000)
    assert (counts - 400).abs().max() < 80


def test_timesteps_are_a_pure_function_of_seed_and_step():
    assert torch.equal(uniform_timesteps(1, 2, 9), uniform_timesteps(1, 2, 9))
    assert not torch.equal(uniform_timesteps(1, 2, 9), uniform_timesteps(1, 3, 9))
    assert not torch.equal(uniform_timesteps(1, 2, 9), uniform_timesteps(2, 2, 9))


def test_length_classes_have_strata_of_their_own():
    lengths = [100] * 4 + [3000] * 4
    timesteps = uniform_timesteps(0, 0, 8, lengths=lengths)
    for members in (timesteps[:4], timesteps[4:]):
        assert sorted((members // 250).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize(("world", "groups"), [(1, 1), (4, 4), (6, 2), (16, 8), (40, 40)])
def test_ranks_draw_from_intervals_that_cover_all_timesteps(world, groups):
    for rank in range(world):
        timesteps = uniform_timesteps_per_rank(0, 5, 50, rank=rank, world=world)
        group = rank // (world // groups)
        assert timesteps.min() >= group * 1000 // groups
        assert timesteps.max() < (group + 1) * 1000 // groups


def test_a_rank_outside_the_world_is_refused():
    with pytest.raises(ValueError, match="rank=2: must be 0 to 1"):
        uniform_timesteps_per_rank(0, 0, 1, rank=2, world=2)


def test_ids_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="num_samples=2"):
        uniform_timesteps(0, 0, 2, ids=["a"])


def test_noise_is_a_pure_function_of_seed_step_and_clip():
    shape = (16, 3, 4, 4)
    assert torch.equal(noise_for(0, 1, "a", shape), noise_for(0, 1, "a", shape))
    others = [noise_for(1, 1, "a", shape), noise_for(0, 2, "a", shape), noise_for(0, 1, "b", shape)]
    assert not any(torch.equal(noise_for(0, 1, "a", shape), other) for other in others)
    assert abs(noise_for(0, 0, 0, (100_000,)).std() - 1) < 0.01
