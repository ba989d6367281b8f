"""The inference form of norm, SiLU and causal convolution: one pass by strips of rows, nothing kept but the result.

The layers of ``layers.py`` define the mathematics and serve training; these functions give the same values (to
rounding) for less time and memory where no gradient is asked for:

- a group norm and its conditioned scale and shift collapse into one multiply-add per value, whose two factors are
  computed at the size of the latent;
- its result is written behind the cached frames, straight into the padded input of the convolution, for a strip of
  rows at a time: neither a normed copy of the whole activation nor a padded one ever exists;
- on CPUs the float32 convolution goes to oneDNN always (PyTorch picks a path up to 16 times slower for one short
  clip), or by ``winograd.py`` where it is wide enough; also for half-precision weights unless the processor has
  matrix tiles (AMX).
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from cogvideox.autoencoder import winograd

STRIP_BYTES = 64 * 2**20
"""About how large the padded input of a convolution may grow on a CPU before it is cut into strips of rows."""
STRIP_BYTES_GPU = 2**30
"""The same on a GPU: below the 2 GiB at which its convolutions leave their fast path."""


@dataclass(frozen=True)
class NormFactors:
    """What a norm comes to for given inputs, float32: (inputs - mean) * scale + shift.

    The mean is taken off first: folded into the shift it would cost digits where it dwarfs the spread.
    """

    mean: Float[Tensor, "b c 1 1 1"]
    scale: Float[Tensor, "b c t h w"]
    shift: Float[Tensor, "b c t h w"]


@cache
def has_matrix_tiles() -> bool:
    """Whether this CPU multiplies half-precision matrices faster than float32 ones (AMX)."""
    return bool(torch.cpu._is_amx_tile_supported())


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The type convolutions run in: the tensor's own, or float32 where the CPU would be slower in a shorter one."""
    slow_half = tensor.device.type == "cpu" and tensor.element_size() == 2 and not has_matrix_tiles()
    return torch.float32 if slow_half else tensor.dtype


def convolve(
    inputs: Float[Tensor, "b c t h w"], conv: nn.Conv3d, *, padding: tuple[int, int, int] = (0, 0, 0)
) -> Float[Tensor, "b c2 t2 h2 w2"]:
    """The convolution of ``conv`` at stride 1 with another zero padding, in ``inputs``' type."""
    if padding == (0, 0, 0) and winograd.suits(inputs, conv):
        return winograd.convolve(inputs, conv)
    on_cpu = inputs.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    # oneDNN refuses half precision on processors without AVX-512.
    dtype = compute_dtype(inputs) if on_cpu else inputs.dtype
    weight = conv.weight.to(dtype)
    bias = None if conv.bias is None else conv.bias.to(dtype)
    if on_cpu:
        ones = (1, 1, 1)
        return torch.mkldnn_convolution(inputs.to(dtype), weight, bias, padding, ones, ones, 1).to(inputs.dtype)
    return F.conv3d(inputs, weight, bias, padding=padding)


def pointwise_add_(target: Float[Tensor, "b c2 t h w"], inputs: Float[Tensor, "b c t h w"], conv: nn.Conv3d) -> None:
    """Adds a 1x1x1 convolution of ``inputs`` to ``target`` in place."""
    weight = rearrange(conv.weight, "c2 c 1 1 1 -> c c2").to(target.dtype)
    for ours, theirs in zip(target, inputs, strict=True):
        rows = rearrange(ours, "c t h w -> t h w c")
        flat = rows.view(-1, rows.shape[-1]) if rows.is_contiguous() else None
        source = rearrange(theirs, "c t h w -> (t h w) c").to(target.dtype)
        if flat is None:
            rows.add_(rearrange(source @ weight, "(t h w) c -> t h w c", t=rows.shape[0], h=rows.shape[1]))
        else:
            flat.addmm_(source, weight)
        if conv.bias is not None:
            rows.add_(conv.bias)


def group_statistics(
    inputs: Float[Tensor, "b c t h w"], *, groups: int, eps: float
) -> tuple[Float[Tensor, "b c 1 1 1"], Float[Tensor, "b c 1 1 1"]]:
    """Mean and 1 / standard deviation of every channel's group, float32."""
    means, variances = [], []
    for sample in inputs:
        rows = rearrange(sample, "c t h w -> (t h w) c").float()
        if rows.device.type == "cpu":
            unused = rows.new_zeros(rows.shape[1]), rows.new_ones(rows.shape[1])
            mean, variance = torch.ops.aten.batch_norm_update_stats(rows, *unused, 0.0)
        else:
            variance, mean = torch.var_mean(rows, dim=0, correction=0)
        means.append(mean)
        variances.append(variance)
    mean = rearrange(torch.stack(means), "b (g c) -> b g c", g=groups)
    variance = rearrange(torch.stack(variances), "b (g c) -> b g c", g=groups)
    group_mean = mean.mean(dim=2, keepdim=True)
    group_variance = variance.mean(dim=2, keepdim=True) + (mean - group_mean).square().mean(dim=2, keepdim=True)
    inverse = torch.rsqrt(group_variance + eps)
    wide = mean.shape[2]
    return tuple(rearrange(x.expand(-1, -1, wide), "b g c -> b (g c) 1 1 1") for x in (group_mean, inverse))


def row_strips(height: int, *, row_bytes: int, limit_bytes: int) -> list[tuple[int, int]]:
    """Cuts rows into (start, stop) ranges of whole tiles whose bytes stay about under the limit."""
    tiles = -(-height // winograd.TILE)
    fitting = max(1, min(tiles, limit_bytes // max(row_bytes * winograd.TILE, 1)))
    count = -(-tiles // fitting)
    bounds = [min(round(tiles * index / count) * winograd.TILE, height) for index in range(count + 1)]
    return list(pairwise(bounds))


def scale_and_shift_(
    strip: Float[Tensor, "b c t h w"],
    factors: NormFactors,
    *,
    first_row: int,
    zoom: int,
    opening: bool,
) -> None:
    """strip * scale + shift in place; factors are at the latent's size, enlarged ``zoom`` times in space on the way.

    ``strip`` starts at row ``first_row`` of its frame. Of a clip's opening chunk the first latent frame is one frame.
    """
    scale, shift = factors.scale, factors.shift
    if scale.shape[2:] == (1, 1, 1):
        strip.mul_(scale).add_(shift)
        return
    rows = torch.arange(first_row, first_row + strip.shape[3], device=strip.device) // zoom
    large = [
        factor.index_select(3, rows).repeat_interleave(zoom, dim=4).contiguous(memory_format=torch.channels_last_3d)
        for factor in (scale, shift)
    ]
    if opening:
        strip[:, :, :1].mul_(large[0][:, :, :1]).add_(large[1][:, :, :1])
        strip, large = strip[:, :, 1:], [factor[:, :, 1:] for factor in large]
    if strip.shape[2]:
        grouped = rearrange(strip, "b c (t group) h w -> b c t group h w", t=large[0].shape[2])
        grouped.mul_(large[0].unsqueeze(3)).add_(large[1].unsqueeze(3))


def norm_silu_conv(
    inputs: Float[Tensor, "b c t h w"],
    *,
    factors: NormFactors,
    conv: nn.Conv3d,
    tail: Float[Tensor, "b c k h w"] | None,
    zoom: int = 1,
    opening: bool = True,
) -> tuple[Float[Tensor, "b c2 t h w"], Float[Tensor, "b c k h w"]]:
    """conv(SiLU((inputs - mean) * scale + shift)) behind the ``tail`` of the chunk before; also returns the next tail.

    Without a tail the first frame is repeated. A given tail is overwritten with the next one.
    """
    batch, channels, frames, height, width = inputs.shape
    lead = conv.kernel_size[0] - 1
    dtype = compute_dtype(inputs)
    limit = STRIP_BYTES if inputs.device.type == "cpu" else STRIP_BYTES_GPU
    row_bytes = batch * channels * (frames + lead) * (width + 2) * dtype.itemsize
    strips = row_strips(height, row_bytes=row_bytes, limit_bytes=limit)
    fresh = tail is None
    if tail is None:
        tail = empty_video((batch, channels, lead, height, width), like=inputs)
    outputs = None if len(strips) == 1 else empty_video((batch, conv.out_channels, frames, height, width), like=inputs)
    row_above: Tensor | None = None
    for start, stop in strips:
        top, bottom = max(start - 1, 0), min(stop + 1, height)
        padded = empty_video((batch, channels, frames + lead, stop - start + 2, width + 2), like=inputs, dtype=dtype)
        inside = padded[:, :, :, top - start + 1 : bottom - start + 1, 1:-1]
        zero_border_(padded, above=top == start, below=bottom == stop)
        body = inside[:, :, lead:]
        torch.sub(inputs[:, :, :, top:bottom], factors.mean, out=body)
        scale_and_shift_(body, factors, first_row=top, zoom=zoom, opening=opening)
        F.silu(body, inplace=True)
        if fresh:
            inside[:, :, :lead] = body[:, :, :1]
        else:
            inside[:, :, :lead] = tail[:, :, :, top:bottom]
            if row_above is not None:
                inside[:, :, :lead, :1] = row_above
            row_above = tail[:, :, :, stop - 1 : stop].clone()
        tail[:, :, :, start:stop] = inside[:, :, frames:, start - top : stop - top]
        part = convolve(padded, conv)
        if outputs is None:
            return part.to(inputs.dtype), tail
        outputs[:, :, :, start:stop] = part
    assert outputs is not None, "more than one strip fills an output"
    return outputs, tail


def zero_border_(padded: Float[Tensor, "b c t h w"], *, above: bool, below: bool) -> None:
    """Zeros left and right, and where a strip touches the frame's edge; elsewhere its neighbours' rows lie there."""
    padded[..., 0].zero_()
    padded[..., -1].zero_()
    if above:
        padded[:, :, :, 0].zero_()
    if below:
        padded[:, :, :, -1].zero_()


def empty_video(
    shape: tuple[int, int, int, int, int], *, like: Tensor, dtype: torch.dtype | None = None
) -> Float[Tensor, "b c t h w"]:
    """Uninitialised activations with frames contiguous (channels last)."""
    return torch.empty(shape, dtype=dtype or like.dtype, device=like.device, memory_format=torch.channels_last_3d)


def upsample(
    inputs: Float[Tensor, "b c t h w"], conv: nn.Conv2d, *, repeat_frames: int, opening: bool
) -> Float[Tensor, "b c t2 h2 w2"]:
    """Nearest enlargement by 2 and a 3x3 convolution per frame, as one 2x2 convolution; then frames repeated.

    Among pixels enlarged from the same source the nine taps fall on four source pixels, so each of the four output
    positions has its own 2x2 kernel: 4 products instead of 9. A clip's opening frame is never repeated.
    """
    batch, _, frames, height, width = inputs.shape
    dtype = compute_dtype(inputs)
    weight, bias = phase_kernels(conv.weight.to(dtype)), conv.bias
    bias = None if bias is None else bias.to(dtype).repeat(4)
    first = int(opening)
    total = first + (frames - first) * repeat_frames
    outputs = empty_video((batch, conv.out_channels, total, 2 * height, 2 * width), like=inputs)
    for frame in range(frames):
        source = inputs[:, :, frame].to(dtype).contiguous(memory_format=torch.channels_last)
        four = F.conv2d(source, weight, bias, padding=1)
        begin = frame if frame < first else first + (frame - first) * repeat_frames
        place_phases(four, outputs[:, :, begin])
        for copy in range(begin + 1, begin + (1 if frame < first else repeat_frames)):
            outputs[:, :, copy] = outputs[:, :, begin]
    return outputs


def phase_kernels(weight: Float[Tensor, "c2 c 3 3"]) -> Float[Tensor, "four_c2 c 2 2"]:
    """The 2x2 kernels (even, odd rows times even, odd columns) of a 3x3 kernel behind an enlargement by 2."""

    def fold(kernel: Tensor, dim: int) -> list[Tensor]:
        before, here, after = kernel.unbind(dim)
        return [torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)]

    kernels = [phase for rows in fold(weight, 2) for phase in fold(rows, 3)]
    return torch.cat(kernels).contiguous(memory_format=torch.channels_last)


def place_phases(four: Float[Tensor, "b four_c h1 w1"], target: Float[Tensor, "b c h2 w2"]) -> None:
    """Interleaves the four phases; the convolution's zero padding gave each one row and column too many."""
    height, width = target.shape[2] // 2, target.shape[3] // 2
    for index, phase in enumerate(four.chunk(4, dim=1)):
        row, column = divmod(index, 2)
        target[:, :, row::2, column::2] = phase[:, :, row : row + height, column : column + width]
