"""Scores a reconstruction: L1, a multi-scale gradient term in place of a learned perceptual one, and KL."""

from dataclasses import dataclass

import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cogvideox.autoencoder import Posterior

SCALES = 3


@dataclass(frozen=True)
class ReconstructionLoss:
    """The weighted sum to minimise, and its parts unweighted (scalars)."""

    total: Float[Tensor, ""]
    l1: Float[Tensor, ""]
    gradient: Float[Tensor, ""]
    kl: Float[Tensor, ""]


def multiscale_gradient_loss(ours: Float[Tensor, "b c t h w"], target: Float[Tensor, "b c t h w"]) -> Float[Tensor, ""]:
    """Mean L1 between the differences of neighbouring rows, columns and frames, at full, half and quarter size.

    It stands where the paper has LPIPS (section 2.1), which needs a downloaded network: like it, it punishes lost
    edges and texture more than a small shift of brightness.
    """
    error = ours - target  # differences are linear: those of the error are the error of the differences
    total = (error[:, :, 1:] - error[:, :, :-1]).abs().mean() if error.shape[2] > 1 else error.new_zeros(())
    frames = rearrange(error, "b c t h w -> (b t) c h w")
    for scale in range(SCALES):
        if scale:
            frames = F.avg_pool2d(frames, 2)
        rows, columns = frames[:, :, 1:] - frames[:, :, :-1], frames[..., 1:] - frames[..., :-1]
        total = total + rows.abs().mean() + columns.abs().mean()
    return total / (2 * SCALES + 1)


def reconstruction_loss(
    ours: Float[Tensor, "b 3 t h w"],
    target: Float[Tensor, "b 3 t h w"],
    posterior: Posterior,
    *,
    l1_weight: float,
    perceptual_weight: float,
    kl_weight: float,
) -> ReconstructionLoss:
    """L1 per pixel value, gradient term, and KL in nats per latent position and channel."""
    l1 = (ours - target).abs().mean()
    gradient = multiscale_gradient_loss(ours, target)
    kl = Posterior(posterior.mean.float(), posterior.log_variance.float()).kl().mean() / posterior.mean[0].numel()
    return ReconstructionLoss(l1_weight * l1 + perceptual_weight * gradient + kl_weight * kl, l1, gradient, kl)
