"""Turns a prompt's embedding (and an image's or video's latent) into a latent, one resumable step at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from cogvideox.denoiser import Denoiser
from cogvideox.guidance import Guidance, guided_velocity
from cogvideox.sampler import DDIM, DPMSolverSDE, SamplerState, StepInput, make_sampler
from cogvideox.schedule import Schedule
from cogvideox.shape import latent_shape, padded_latent_frames
from cogvideox.variants import Variant


@dataclass(frozen=True)
class Settings:
    """What a user may choose of a video. Sizes are in pixels; `strength` matters for video-to-video only."""

    num_frames: int
    height: int
    width: int
    num_steps: int
    seed: int = 0
    sampler: str = "ddim"
    strength: float = 0.8
    guidance: Guidance = field(default_factory=Guidance)


@dataclass(frozen=True)
class Trajectory:
    """The way of one video from noise to latent. It holds no progress: that is all in the `SamplerState`.

    `positive` and `negative` are text embeddings [1, n, d] (negative None: no guidance). `image` is the scaled latent
    of a first frame [1, c, 1, h, w]; `video` the scaled latent to start from [1, c, t, h, w]. `halves` are
    two workers on the same trajectory that each compute one half of guidance.
    """

    variant: Variant
    settings: Settings
    denoiser: Denoiser
    positive: Float[Tensor, "1 n d"]
    negative: Float[Tensor, "1 n d"] | None = None
    image: Float[Tensor, "1 c 1 h w"] | None = None
    video: Float[Tensor, "1 c t h w"] | None = None
    halves: dist.ProcessGroup | None = None

    def start(self, *, noise: Float[Tensor, "1 c t h w"] | None = None) -> SamplerState:
        """The state before the first step; `noise` replaces what the seed gives (shape: `noise_shape`)."""
        if noise is None:
            generator = torch.Generator().manual_seed(self.settings.seed)
            noise = torch.randn(self.noise_shape, generator=generator)
        if tuple(noise.shape) != self.noise_shape:
            raise ValueError(f"noise is {tuple(noise.shape)}: must be {self.noise_shape}")
        noise = noise.to(self._device)
        if self.video is None:
            return self._sampler.init(noise, seed=self.settings.seed)
        padding = noise.shape[2] - self.video.shape[2]
        first = self.video[:, :, :1].expand(-1, -1, padding, -1, -1)
        latent = torch.cat((first, self.video), dim=2).to(self._device)
        return self._sampler.init_from(latent, noise, strength=self.settings.strength, seed=self.settings.seed)

    @property
    def noise_shape(self) -> tuple[int, int, int, int, int]:
        """[1, c, t, h, w] in latents; t is even for models whose tokens hold two latent frames."""
        settings, config = self.settings, self.variant.denoiser
        frames, rows, columns = latent_shape(settings.num_frames, settings.height, settings.width)
        return (1, config.out_channels, padded_latent_frames(frames, patch_frames=config.patch_frames), rows, columns)

    @torch.no_grad()
    def step(self, state: SamplerState) -> SamplerState:
        """The state after one more step."""
        return self._sampler.step(state, self._velocity)

    def latent(self, state: SamplerState) -> Float[Tensor, "1 c t h w"]:
        """The autoencoder's latent (unscaled, padding frames dropped) of a state, finished or not."""
        return self._unscaled(state.latent)

    def predicted(self, before: SamplerState, after: SamplerState) -> Float[Tensor, "1 c t h w"]:
        """What the step between two states took for the clean latent, as `latent` gives it: a look ahead."""
        return self._unscaled(self._sampler.predicted(before, after))

    def _unscaled(self, latent: Float[Tensor, "1 c t h w"]) -> Float[Tensor, "1 c t2 h w"]:
        frames, _, _ = latent_shape(self.settings.num_frames, self.settings.height, self.settings.width)
        return latent[:, :, latent.shape[2] - frames :] / self.variant.scale_factor

    def _velocity(self, question: StepInput) -> Float[Tensor, "1 c t h w"]:
        guidance = self.settings.guidance
        scale = guidance.scale_at(step=question.step, num_steps=question.num_steps, timestep=question.timestep)
        return guided_velocity(
            self.denoiser,
            self._with_image(question.latent),
            timestep=question.timestep,
            positive=self.positive,
            negative=self.negative,
            scale=scale,
            split=guidance.split,
            halves=self.halves,
        )

    def _with_image(self, latent: Float[Tensor, "1 c t h w"]) -> Float[Tensor, "1 c_in t h w"]:
        """The denoiser's input: the noisy latent in its dtype, image channels behind it where it takes them."""
        latent = latent.to(self.denoiser.out_projection.weight.dtype)
        if self.image is None:
            return latent
        conditioning = torch.zeros_like(latent)
        unpadded, _, _ = latent_shape(self.settings.num_frames, self.settings.height, self.settings.width)
        conditioning[:, :, :1] = self.image.to(latent)
        if self.variant.image_placement == "repeated" and latent.shape[2] > unpadded:
            conditioning[:, :, 1:2] = self.image.to(latent)
        return torch.cat((latent, conditioning), dim=1)

    @property
    def _sampler(self) -> DDIM | DPMSolverSDE:
        return make_sampler(self.settings.sampler, Schedule(self.variant.snr_shift), num_steps=self.settings.num_steps)

    @property
    def _device(self) -> torch.device:
        return self.denoiser.out_projection.weight.device
