"""Turns a clean latent into a training question and its loss: timesteps, noise, velocity target, weighted error."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cogvideox.schedule import NUM_TIMESTEPS, Schedule


def add_noise(
    latent: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], *, timestep: Int[Tensor, " b"], schedule: Schedule
) -> Float[Tensor, "b ..."]:
    """x_t = sqrt(alpha_bar)·x_0 + sqrt(1 - alpha_bar)·noise, mixed in float32, in the latent's dtype."""
    alpha_bar = schedule.at(timestep, latent)
    return (alpha_bar.sqrt() * latent.float() + (1 - alpha_bar).sqrt() * noise.float()).to(latent.dtype)


def velocity_target(
    latent: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], *, timestep: Int[Tensor, " b"], schedule: Schedule
) -> Float[Tensor, "b ..."]:
    """v = sqrt(alpha_bar)·noise - sqrt(1 - alpha_bar)·x_0, float32 (paper, section 2.4: v-prediction)."""
    alpha_bar = schedule.at(timestep, latent)
    return alpha_bar.sqrt() * noise.float() - (1 - alpha_bar).sqrt() * latent.float()


def predict_latent(
    noisy: Float[Tensor, "b ..."], velocity: Float[Tensor, "b ..."], *, timestep: Int[Tensor, " b"], schedule: Schedule
) -> Float[Tensor, "b ..."]:
    """The clean latent that a velocity implies: sqrt(alpha_bar)·x_t - sqrt(1 - alpha_bar)·v, float32."""
    alpha_bar = schedule.at(timestep, noisy)
    return alpha_bar.sqrt() * noisy.float() - (1 - alpha_bar).sqrt() * velocity.float()


def clip_losses(velocity: Float[Tensor, "b ..."], target: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Mean squared error of the velocity per clip, float32.

    It equals the published objective, (x_0_hat - x_0)² weighted by 1/(1 - alpha_bar), term by term.
    """
    return (velocity.float() - target.float()).square().flatten(1).mean(dim=1)


def loss(velocity: Float[Tensor, "b ..."], target: Float[Tensor, "b ..."]) -> Float[Tensor, ""]:
    """Mean of `clip_losses`: every clip counts the same, whatever its size."""
    return clip_losses(velocity, target).mean()


def uniform_timesteps(
    seed: int,
    step: int,
    num_samples: int,
    *,
    ids: Sequence[str | int] | None = None,
    lengths: Sequence[int] | None = None,
) -> Int[Tensor, " n"]:
    """Explicit uniform sampling over all samples of one global step: each falls in a stratum of its own.

    A pure function: every rank computes the same list, in the plan's order, without communication. Each timestep is
    exactly uniform on 0..999, and the n of them hit n different intervals (paper, section 3.3, whose intervals are
    one per rank: see `uniform_timesteps_per_rank`). `ids` names the samples (default: their index), so that a
    sample's draw does not depend on its place; with `lengths` (tokens per sample, for token-weighted losses) the
    strata are laid inside each octave of length.
    """
    names = list(range(num_samples)) if ids is None else list(ids)
    if len(names) != num_samples or (lengths is not None and len(lengths) != num_samples):
        raise ValueError(f"num_samples={num_samples}: ids and lengths must have as many entries")
    classes = [0] * num_samples if lengths is None else [(length // 1024).bit_length() for length in lengths]
    timesteps = [0] * num_samples
    for length_class in sorted(set(classes)):
        members = [index for index, value in enumerate(classes) if value == length_class]
        shuffled = sorted(members, key=lambda index: _digest(seed, step, "stratum", index))
        for stratum, index in enumerate(shuffled):
            jitter = _uniform(seed, step, "jitter", names[index])
            timesteps[index] = _timestep((stratum + jitter) / len(members))
    return torch.tensor(timesteps, dtype=torch.int64)


def uniform_timesteps_per_rank(seed: int, step: int, num_samples: int, *, rank: int, world: int) -> Int[Tensor, " n"]:
    """The paper's form: 0..999 is cut into intervals, and a rank draws all its samples from its own.

    As in the published code, the number of intervals is the largest divisor of `world` that also divides 1000, and
    consecutive ranks share an interval when there are more ranks than intervals.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank={rank}: must be 0 to {world - 1}")
    groups = max(n for n in range(1, world + 1) if world % n == 0 and NUM_TIMESTEPS % n == 0)
    group = rank // (world // groups)
    draws = [_uniform(seed, step, "rank", rank, index) for index in range(num_samples)]
    return torch.tensor([_timestep((group + draw) / groups) for draw in draws], dtype=torch.int64)


def noise_for(seed: int, step: int, clip_id: str | int, shape: Sequence[int]) -> Float[Tensor, ...]:
    """Unit Gaussian noise of one clip at one step: float32 on the CPU, the same on any number of ranks."""
    generator = torch.Generator().manual_seed(stream_seed(seed, step, "noise", clip_id))
    return torch.randn(tuple(shape), generator=generator)


def stream_seed(*words: str | int) -> int:
    """A 63-bit seed from words: the same words give the same random stream, others an independent one."""
    return _digest(*words) >> 1


def _digest(*words: str | int) -> int:
    text = "\x1f".join(str(word) for word in words)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _uniform(*words: str | int) -> float:
    return (_digest(*words) >> 11) / 2**53


def _timestep(share: float) -> int:
    return min(int(share * NUM_TIMESTEPS), NUM_TIMESTEPS - 1)
