"""Turns noise into a latent, one resumable step at a time: DDIM and DPM++ 2M SDE."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor

from cogvideox.objective import add_noise, stream_seed
from cogvideox.schedule import Schedule, trailing_timesteps

VelocityFunction = Callable[["StepInput"], Float[Tensor, "b c t h w"]]
"""Answers a step's question with the velocity, guidance included."""


@dataclass(frozen=True)
class StepInput:
    """What the denoiser is asked at one step: the noisy latent, its timestep 0..999, and which step this is."""

    latent: Float[Tensor, "b c t h w"]
    timestep: int
    step: int
    num_steps: int


@dataclass(frozen=True)
class SamplerState:
    """Everything a trajectory needs to go on: saved after any step and loaded elsewhere, it ends bit for bit the same.

    `step` steps are done of `timesteps`; `previous` is the last predicted clean latent (DPM++ only); `seed` makes
    the noise that the SDE adds.
    """

    latent: Float[Tensor, "b c t h w"]
    timesteps: tuple[int, ...]
    seed: int
    step: int = 0
    previous: Float[Tensor, "b c t h w"] | None = None

    @property
    def num_steps(self) -> int:
        """Steps of the whole trajectory."""
        return len(self.timesteps)

    @property
    def finished(self) -> bool:
        """Whether `latent` is the clean result."""
        return self.step >= self.num_steps

    def to_bytes(self, *, metadata: Mapping[str, str] | None = None) -> bytes:
        """The state as a safetensors file, `metadata` in its header."""
        tensors = {"latent": self.latent.contiguous()}
        if self.previous is not None:
            tensors["previous"] = self.previous.contiguous()
        tensors["progress"] = torch.tensor([self.seed, self.step, *self.timesteps], dtype=torch.int64)
        data: bytes = save(tensors, metadata=None if metadata is None else dict(metadata))
        return data

    @classmethod
    def from_bytes(cls, data: bytes, *, device: torch.device | str = "cpu") -> SamplerState:
        """The inverse of `to_bytes`, with tensors on `device`."""
        tensors = load(data)
        seed, step, *timesteps = tensors["progress"].tolist()
        previous = tensors.get("previous")
        return cls(
            latent=tensors["latent"].to(device),
            timesteps=tuple(timesteps),
            seed=seed,
            step=step,
            previous=None if previous is None else previous.to(device),
        )


class Sampler(Protocol):
    """A way from noise to a latent."""

    def init(self, noise: Float[Tensor, "b c t h w"], *, seed: int) -> SamplerState:
        """The state before the first step."""
        ...

    def step(self, state: SamplerState, denoise: VelocityFunction) -> SamplerState:
        """The state after one more step."""
        ...


class _Trajectory:
    """What the samplers share: timesteps from 999 down, where to start, one call of the denoiser per step."""

    def __init__(self, schedule: Schedule, *, num_steps: int) -> None:
        self.schedule = schedule
        self.timesteps = trailing_timesteps(num_steps)

    def init(self, noise: Float[Tensor, "b c t h w"], *, seed: int = 0) -> SamplerState:
        """Starts from pure unit Gaussian noise."""
        return SamplerState(latent=noise.float(), timesteps=self.timesteps, seed=seed)

    def init_from(
        self,
        latent: Float[Tensor, "b c t h w"],
        noise: Float[Tensor, "b c t h w"],
        *,
        strength: float = 0.8,
        seed: int = 0,
    ) -> SamplerState:
        """Starts from a latent with noise added (video-to-video): the last `strength` share of the steps run."""
        if not 0 < strength <= 1:
            raise ValueError(f"strength={strength}: must be above 0 and at most 1")
        count = max(1, int(len(self.timesteps) * strength))
        timesteps = self.timesteps[len(self.timesteps) - count :]
        first = torch.full((latent.shape[0],), timesteps[0])
        noisy = add_noise(latent.float(), noise.float(), timestep=first, schedule=self.schedule)
        return SamplerState(latent=noisy, timesteps=timesteps, seed=seed)

    def _levels(self, state: SamplerState) -> tuple[float, float]:
        """alpha-bar now and after the step; the clean end is 1.

        The next level is that of the next timestep asked. diffusers takes timestep - 1000 // num_steps, which is
        another level whenever num_steps does not divide 1000.
        """
        if state.finished:
            raise ValueError(f"step={state.step}: this trajectory of {state.num_steps} steps is finished")
        following = state.timesteps[state.step + 1] if state.step + 1 < state.num_steps else -1
        return self.schedule.signal_share(state.timesteps[state.step]), self.schedule.signal_share(following)

    def _predict(self, state: SamplerState, denoise: VelocityFunction, *, now: float) -> Float[Tensor, "b c t h w"]:
        """The clean latent, from one call of the denoiser."""
        question = StepInput(state.latent, state.timesteps[state.step], state.step, state.num_steps)
        velocity = denoise(question).to(state.latent)
        return math.sqrt(now) * state.latent - math.sqrt(1 - now) * velocity


class DDIM(_Trajectory):
    """Deterministic DDIM on the velocity (Song et al. 2021, equation 12 with eta = 0): advised for the 2B model."""

    def step(self, state: SamplerState, denoise: VelocityFunction) -> SamplerState:
        """One step; finite from zero SNR on because the network predicts velocity."""
        now, after = self._levels(state)
        clean = self._predict(state, denoise, now=now)
        keep, pull = self._shares(now, after)
        latent = keep * state.latent + pull * clean
        return replace(state, latent=latent, step=state.step + 1)

    def predicted(self, before: SamplerState, after: SamplerState) -> Float[Tensor, "b c t h w"]:
        """The clean latent that the step between two states predicted, to rounding."""
        keep, pull = self._shares(*self._levels(before))
        return (after.latent - keep * before.latent) / pull

    @staticmethod
    def _shares(now: float, after: float) -> tuple[float, float]:
        keep = math.sqrt((1 - after) / (1 - now))
        return keep, math.sqrt(after) - math.sqrt(now) * keep


class DPMSolverSDE(_Trajectory):
    """DPM-Solver++ 2M, SDE form (Lu et al. 2022): advised for the 5B and 1.5 models.

    The noise of a step is a function of (seed, step) unless `noise` gives it, so that a resumed trajectory draws
    what an undisturbed one does.
    """

    def __init__(
        self, schedule: Schedule, *, num_steps: int, noise: Callable[[SamplerState], Tensor] | None = None
    ) -> None:
        super().__init__(schedule, num_steps=num_steps)
        self._noise = noise if noise is not None else _step_noise

    def step(self, state: SamplerState, denoise: VelocityFunction) -> SamplerState:
        """One step: first order at both ends, second order (with the previous prediction) between."""
        now, after = self._levels(state)
        clean = self._predict(state, denoise, now=now)
        if after == 1.0:
            return replace(state, latent=clean, previous=clean, step=state.step + 1)
        width = _log_snr(after) - _log_snr(now)  # infinite on the first step: all of its factors are limits
        keep = math.sqrt((1 - after) / (1 - now)) * math.exp(-width)
        pull = -math.expm1(-2 * width) * math.sqrt(after)
        spread = math.sqrt(1 - after) * math.sqrt(1 - math.exp(-2 * width))
        target = clean
        if state.previous is not None:
            before = self.schedule.signal_share(state.timesteps[state.step - 1])
            bend = width / (2 * (_log_snr(now) - _log_snr(before)))  # 1 / 2r; zero after an infinite first step
            target = (1 + bend) * clean - bend * state.previous
        latent = keep * state.latent + pull * target + spread * self._noise(state).to(state.latent)
        return replace(state, latent=latent, previous=clean, step=state.step + 1)

    def predicted(self, before: SamplerState, after: SamplerState) -> Float[Tensor, "b c t h w"]:  # noqa: ARG002
        """The clean latent that the step between two states predicted."""
        assert after.previous is not None, "every step leaves its prediction"
        return after.previous


def make_sampler(name: str, schedule: Schedule, *, num_steps: int) -> DDIM | DPMSolverSDE:
    """The sampler a model card names. ValueError for another name."""
    if name == "ddim":
        return DDIM(schedule, num_steps=num_steps)
    if name == "dpm":
        return DPMSolverSDE(schedule, num_steps=num_steps)
    raise ValueError(f"sampler={name!r}: must be 'ddim' or 'dpm'")


def _log_snr(alpha_bar: float) -> float:
    """Half the log of signal over noise power; minus infinity at zero SNR."""
    return -math.inf if alpha_bar == 0 else 0.5 * math.log(alpha_bar / (1 - alpha_bar))


def _step_noise(state: SamplerState) -> Tensor:
    generator = torch.Generator().manual_seed(stream_seed(state.seed, state.step, "sampler"))
    return torch.randn(state.latent.shape, generator=generator)
