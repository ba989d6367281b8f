"""Layers of the 3D causal VAE: causal convolution, norms, residual block, resampling; all on ``b c t h w``.

Activations travel in ``channels_last_3d`` memory, where frames are contiguous: prepending cached frames is a plain
copy, and the per-frame convolutions see ``(b t) c h w`` without one.
"""

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.autoencoder import fused
from cogvideox.autoencoder.stream import Stream

Video = Float[Tensor, "b c t h w"]
Condition = Float[Tensor, "b c_z t_z h_z w_z"]
Widened = Float[Tensor, "b c2 t h w"]
Resampled = Float[Tensor, "b c t2 h2 w2"]


class CausalConv3d(nn.Conv3d):
    """A convolution whose output at frame t sees input frames t - 2 .. t only (paper section 2.1, figure 3a).

    Time is padded at the front only, by the frames the stream kept or by the chunk's first frame repeated; space is
    padded with zeros.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 3) -> None:
        pad = kernel_size // 2
        super().__init__(in_channels, out_channels, kernel_size, padding=(0, pad, pad))
        self.lead_frames = kernel_size - 1

    def forward(  # type: ignore[override]  # the stream is the point
        self, inputs: Video, stream: Stream
    ) -> Widened:
        tail = stream.take(self)
        lead = inputs[:, :, :1].expand(-1, -1, self.lead_frames, -1, -1) if tail is None else tail
        padded = torch.cat([lead, inputs], dim=2)
        kept = padded[:, :, -self.lead_frames :]
        stream.put(self, kept if torch.is_grad_enabled() else kept.clone())  # a view would keep the whole chunk alive
        return fused.convolve(padded, self, padding=(0, 1, 1))


class PlainNorm(nn.GroupNorm):
    """The encoder's norm: group norm over channels, frames of the chunk, rows and columns."""

    def forward(self, inputs: Video, condition: Condition | None, stream: Stream) -> Video:  # type: ignore[override]  # noqa: ARG002
        return super().forward(inputs)

    def factors(self, inputs: Video, condition: Condition | None) -> fused.NormFactors:  # noqa: ARG002
        """What the norm comes to for these inputs, one scale and shift per channel."""
        return group_factors(self, inputs)


class ConditionedNorm(nn.Module):
    """The decoder's norm: group norm, then a scale and a shift that depend on the latent at that place.

    GN(f) * Y(z) + B(z), MoVQ (arXiv 2209.09002), with 1x1x1 convolutions Y, B. Those commute with the nearest
    enlargement of z to the size of f, so they run on the small latent and only their results are enlarged.
    """

    def __init__(self, channels: int, *, condition_channels: int, groups: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=eps)
        self.scale = nn.Conv3d(condition_channels, channels, 1)
        self.shift = nn.Conv3d(condition_channels, channels, 1)
        nn.init.ones_(self.scale.bias)  # type: ignore[arg-type]  # a fresh network starts near a plain norm
        nn.init.zeros_(self.shift.bias)  # type: ignore[arg-type]

    def forward(self, inputs: Video, condition: Condition | None, stream: Stream) -> Video:
        assert condition is not None, "the conditioned norm needs the latent"
        normed = self.norm(inputs)
        scale = enlarge(self.scale(condition), like=inputs, first=stream.first)
        shift = enlarge(self.shift(condition), like=inputs, first=stream.first)
        return torch.addcmul(shift, normed, scale)

    def factors(self, inputs: Video, condition: Condition | None) -> fused.NormFactors:
        """What norm and condition come to, scale and shift at the size of the condition."""
        assert condition is not None, "the conditioned norm needs the latent"
        plain, condition = group_factors(self.norm, inputs), condition.float()
        outer = fused.convolve(condition, self.scale, padding=(0, 0, 0))
        shift = fused.convolve(condition, self.shift, padding=(0, 0, 0)).addcmul(outer, plain.shift)
        return fused.NormFactors(plain.mean, outer.mul_(plain.scale), shift)


def group_factors(norm: nn.GroupNorm, inputs: Video) -> fused.NormFactors:
    """Group norm of these inputs as a mean, a scale and a shift per channel."""
    mean, inverse = fused.group_statistics(inputs, groups=norm.num_groups, eps=norm.eps)
    weight, bias = (rearrange(vector.float(), "c -> 1 c 1 1 1") for vector in (norm.weight, norm.bias))
    return fused.NormFactors(mean, inverse * weight, bias)


def enlarge(small: Resampled, *, like: Video, first: bool) -> Video:
    """Nearest enlargement to the size of ``like``; of a clip's opening, the first frame stays one frame."""
    size = like.shape[2:]
    if not first or size[0] == 1 or small.shape[2] == size[0]:
        return F.interpolate(small, size=size)
    opening = F.interpolate(small[:, :, :1], size=(1, *size[1:]))
    rest = F.interpolate(small[:, :, 1:], size=(size[0] - 1, *size[1:]))
    return torch.cat([opening, rest], dim=2)


class ResidualBlock(nn.Module):
    """norm, SiLU, causal conv, twice, added to the input (through a 1x1x1 convolution where the width changes)."""

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, eps: float, condition_channels: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = make_norm(in_channels, groups=groups, eps=eps, condition_channels=condition_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = make_norm(out_channels, groups=groups, eps=eps, condition_channels=condition_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, inputs: Video, condition: Condition | None, stream: Stream) -> Widened:
        hidden = norm_silu_conv(inputs, self.norm1, self.conv1, condition=condition, stream=stream)
        hidden = norm_silu_conv(hidden, self.norm2, self.conv2, condition=condition, stream=stream)
        if torch.is_grad_enabled():
            return hidden + self.shortcut(inputs)  # type: ignore[no-any-return]
        if isinstance(self.shortcut, nn.Conv3d):
            fused.pointwise_add_(hidden, inputs, self.shortcut)
            return hidden
        return hidden.add_(inputs)


def norm_silu_conv(
    inputs: Video,
    norm: "PlainNorm | ConditionedNorm",
    conv: CausalConv3d,
    *,
    condition: Condition | None,
    stream: Stream,
) -> Widened:
    """Norm, SiLU and causal convolution: layer by layer where a gradient is asked for, fused where none is."""
    if torch.is_grad_enabled():
        return conv(F.silu(norm(inputs, condition, stream)), stream)  # type: ignore[no-any-return]
    zoom = 1 if condition is None else inputs.shape[3] // condition.shape[3]
    outputs, tail = fused.norm_silu_conv(
        inputs,
        factors=norm.factors(inputs, condition),
        conv=conv,
        tail=stream.take(conv),
        zoom=zoom,
        opening=stream.first,
    )
    stream.put(conv, tail)
    return outputs


def make_norm(channels: int, *, groups: int, eps: float, condition_channels: int = 0) -> "PlainNorm | ConditionedNorm":
    """The norm of the encoder, or of the decoder when there are latent channels to condition on."""
    if condition_channels:
        return ConditionedNorm(channels, condition_channels=condition_channels, groups=groups, eps=eps)
    return PlainNorm(groups, channels, eps=eps)


class Downsample(nn.Conv2d):
    """Halves rows and columns by a stride-2 convolution per frame, after (optionally) averaging pairs of frames."""

    def __init__(self, channels: int, *, compress_time: bool) -> None:
        super().__init__(channels, channels, 3, stride=2)
        self.compress_time = compress_time

    def forward(self, inputs: Video, stream: Stream) -> Resampled:  # type: ignore[override]
        if self.compress_time:
            opening = inputs[:, :, : int(stream.first)]
            pairs = rearrange(inputs[:, :, int(stream.first) :], "b c (t pair) h w -> b c t pair h w", pair=2)
            inputs = torch.cat([opening, pairs.mean(dim=3)], dim=2)
        batch = inputs.shape[0]
        frames = F.pad(rearrange(inputs, "b c t h w -> (b t) c h w"), (0, 1, 0, 1))
        return rearrange(super().forward(frames), "(b t) c h w -> b c t h w", b=batch)  # type: ignore[no-any-return]


class Upsample(nn.Conv2d):
    """Doubles rows and columns (nearest, then a convolution per frame), and (optionally) the frames.

    Frames are doubled after the convolution, which acts on each frame alone: the same values for half the work.
    """

    def __init__(self, channels: int, *, expand_time: bool) -> None:
        super().__init__(channels, channels, 3, padding=1)
        self.expand_time = expand_time

    def forward(self, inputs: Video, stream: Stream) -> Resampled:  # type: ignore[override]
        if not torch.is_grad_enabled():
            return fused.upsample(inputs, self, repeat_frames=2 if self.expand_time else 1, opening=stream.first)
        batch = inputs.shape[0]
        frames = F.interpolate(rearrange(inputs, "b c t h w -> (b t) c h w"), scale_factor=2.0)
        outputs = rearrange(super().forward(frames), "(b t) c h w -> b c t h w", b=batch)
        if not self.expand_time:
            return outputs  # type: ignore[no-any-return]
        opening, rest = outputs[:, :, : int(stream.first)], outputs[:, :, int(stream.first) :]
        return torch.cat([opening, repeat(rest, "b c t h w -> b c (t two) h w", two=2)], dim=2)
