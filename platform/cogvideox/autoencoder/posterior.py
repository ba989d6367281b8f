"""The Gaussian over latents that the encoder answers with."""

from dataclasses import dataclass

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over unscaled latents ``b c t h w``."""

    mean: Float[Tensor, "b c t h w"]
    log_variance: Float[Tensor, "b c t h w"]

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b two_c t h w"]) -> "Posterior":
        """Splits the encoder's output; the log-variance is clamped to -30..20 as in the released code."""
        mean, log_variance = moments.chunk(2, dim=1)
        return cls(mean, log_variance.clamp(-30.0, 20.0))

    def mode(self) -> Float[Tensor, "b c t h w"]:
        """The most likely latent."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "b c t h w"]:
        """mean + std * noise; the noise is drawn on the generator's device, so that a CPU seed holds everywhere."""
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=device)
        return self.mean + torch.exp(0.5 * self.log_variance) * noise.to(self.mean.device)

    def kl(self) -> Float[Tensor, " b"]:
        """Divergence from the standard normal in nats, summed over each sample's latent."""
        terms = self.mean.square() + self.log_variance.exp() - 1.0 - self.log_variance
        return 0.5 * reduce(terms, "b c t h w -> b", "sum")  # type: ignore[no-any-return]
